"""Schema of what a run keeps.

In: nothing. Out: `CheckpointSpec`. It is saved every so many steps, by a share of the run (`10%`),
`epoch`, by the clock (`30min`), or never (null).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.schema.base import (
    Effect,
    PositiveInt,
    SaveInterval,
    Spec,
)


class CheckpointSpec(Spec):
    """What is kept."""

    effect = Effect.BOOKKEEPING

    every: SaveInterval
    """How often a resumable checkpoint is written: a number of optimizer steps, a share of the run
    (`25%`), `epoch`, or by the clock (`90s`, `30min`, `2h`: at the end of the first step after so
    much time since the last save, by the clock of the first process). The last step is saved as
    well. null writes none but that of a stop. The final model is always written."""
    keep: PositiveInt
    """Checkpoints kept; older ones are pruned, the best one never."""
    best: Annotated[str | None, Effect.NUMERICS]
    """Metric that picks the final model (`eval_loss`); null keeps the last state."""
    best_direction: Annotated[Literal["minimize", "maximize"], Effect.NUMERICS]
    """Whether the smaller or the larger metric is the better one."""
    resume: bool
    """Continue from the newest checkpoint when the run folder holds an interrupted run."""
    reshard: str | None = Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")
    """Run to go on from with another number of processes, by its id, such as
    `example-1a2b3c4d5e`: a run of the same plan below `paths.runs`. This run then begins after its
    newest checkpoint, each row of the data still seen once; random numbers, such as those of
    dropout, begin anew. null begins with the first step."""
    max_shard_size: str = Field(pattern=r"^\d+(\.\d+)?\s?[KMG]B$")
    """Largest weight file, such as `5GB`, of the final model and of checkpoints; larger models are
    spread over several. An adapter is one file."""
