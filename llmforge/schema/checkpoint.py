"""Schema of what a run keeps.

In: nothing. Out: `CheckpointSpec`. Intervals are steps, a share of the run (`10%`), `epoch`, or
null.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.schema.base import (
    Effect,
    Interval,
    PositiveInt,
    SecretRef,
    Spec,
)


class CheckpointSpec(Spec):
    """What is kept."""

    effect = Effect.BOOKKEEPING

    every: Interval
    """How often a resumable checkpoint is written; the final model is always written."""
    keep: PositiveInt
    """Checkpoints kept; older ones are pruned, the best one never."""
    best: Annotated[str | None, Effect.NUMERICS]
    """Metric that picks the final model (`eval_loss`); null keeps the last state."""
    best_direction: Annotated[Literal["minimize", "maximize"], Effect.NUMERICS]
    """Whether the smaller or the larger metric is the better one."""
    resume: bool
    """Continue from the newest checkpoint when the run folder holds an interrupted run."""
    max_shard_size: str = Field(pattern=r"^\d+(\.\d+)?\s?[KMG]B$")
    """Largest weight file, such as `5GB`."""
    hub_push: bool
    """Upload the final model (the adapter alone under LoRA) after training."""
    hub_repository: str | None
    """Where to: `owner/name`."""
    hub_private: bool
    """Make the repository private when it does not exist yet."""
    hub_token: SecretRef
    """`env:NAME` of the variable that holds the token."""
