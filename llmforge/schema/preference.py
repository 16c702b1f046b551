"""Schema of preference tuning: trainers that learn from pairs of answers.

In: nothing. Out: the spec class of `trainer.kind=dpo`. What it stands on is TRL's stable
`DPOTrainer` (package trl, extra `preference`). Left out: TRL's KTO and reward trainers, which are
stable too, but pair answers across a batch in the order of the data, or train a model with another
head that cannot answer; and everything under `trl.experimental`.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Effect
from llmforge.schema.train import TrainerSpec

SMOOTHED = frozenset(("robust", "exo_pair"))
"""Losses that label smoothing means something to."""

PairLoss = Literal[
    "sigmoid",
    "hinge",
    "ipo",
    "robust",
    "exo_pair",
    "nca_pair",
    "bco_pair",
    "sppo_hard",
    "apo_zero",
    "apo_down",
    "discopop",
    "sigmoid_norm",
]
"""TRL's names of the losses."""


@register("trainer", "dpo", "llmforge.build.preference:DpoTrainer")
class DpoSpec(TrainerSpec):
    """Direct preference optimization: the chosen answer more likely than the rejected one, compared
    with a reference model (Rafailov et al. 2023, arXiv 2305.18290)."""

    METRICS: ClassVar[tuple[str, ...]] = (
        *("loss", "rewards_chosen", "rewards_rejected", "rewards_accuracy", "rewards_margin"),
        "pairs",
    )
    SEQUENCES: ClassVar[int] = 2

    kind: Literal["dpo"]
    beta: Annotated[float, Field(gt=0.0, le=100.0)]
    """How dear it is to move away from the reference: rewards are this times the change of an
    answer's log-probability in nats. Small moves far (0.01), large stays near (0.5)."""
    loss: PairLoss
    """What is made of a pair's rewards. `sigmoid` is DPO; `ipo` (arXiv 2310.12036) and `hinge`
    (arXiv 2305.10425) bound the margin; `robust` (arXiv 2403.00409) expects flipped pairs;
    `apo_zero`, `apo_down` (arXiv 2408.06266), `nca_pair` (arXiv 2402.05369), `bco_pair`
    (arXiv 2404.04656) and `sppo_hard` (arXiv 2405.00675) look at each answer alone; `exo_pair`
    (arXiv 2402.00856); `discopop` (arXiv 2406.08414); `sigmoid_norm` divides by the answers'
    lengths. TRL's other two sort the pairs of a batch, so that no pair has a loss of its own."""
    label_smoothing: Annotated[float, Field(ge=0.0, lt=0.5)]
    """Share of pairs that are taken to be the wrong way round; for `robust` (0 and more) and
    `exo_pair` (more than 0; its paper takes 0.001), 0 for every other loss."""
    reference: Annotated[Literal["auto", "adapter_off", "copy", "precomputed"], Effect.SPEED]
    """Where the reference's log-probabilities come from. `adapter_off`: the model with its adapter
    switched off, no memory. `copy`: a frozen second model, as large as the first. `precomputed`:
    one pass over all pairs before the first step, then no second pass; without an adapter it saves
    the copy. `auto` takes `adapter_off` under an adapter and `copy` otherwise."""
    disable_dropout: bool
    """Switch dropout off in model, adapter and reference: with it, policy and reference would
    differ by noise before the first step."""
    loss_kernel: Annotated[Literal["auto", "chunked"], Effect.SPEED]
    """Log-probabilities are always computed in chunks, never from whole logits."""
