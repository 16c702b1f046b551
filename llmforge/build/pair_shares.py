"""What each micro batch of pairs counts in its optimizer step: every pair the same.

In: the micro batches of a step, pairs without loss among them where `filling.py` filled a batch.
Out: a `Share` for each, by which the mean of its losses becomes its part of the mean over all pairs
of the step. The library takes the mean of the batches' means instead, which counts the pairs of a
short batch more, and would count those that only fill.

A pair without loss has log-probabilities of 0 under policy and reference, so its loss is a constant
(`preference_losses.py`): no gradient, and to be taken off again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from llmforge.build.sample import IGNORED

_MEANS = ("rewards/", "logps/")
"""TRL's figures that are means over pairs of all processes; its others are means over tokens."""


@dataclass(frozen=True)
class Share:
    """Of one micro batch of this process, and of those that other processes take beside it."""

    pairs: int
    """That this process really has there."""
    slots: int
    """And with those that fill."""
    turn: int
    """Pairs that all processes really have there."""
    turn_slots: int
    """And with those that fill."""
    batches: int
    """Micro batches of the step, of all processes; the library divides by their number."""
    total: int
    """Pairs of the step, of all processes."""

    @property
    def is_plain(self) -> bool:
        """Does the library's mean count every pair right?"""
        return self.pairs == self.slots and self.slots * self.batches == self.total

    def of(self, mean: torch.Tensor, blank: float) -> torch.Tensor:
        """The part of the step's loss; `blank` is the loss of a pair that fills."""
        if self.is_plain:
            return mean
        return (mean * self.slots - blank * (self.slots - self.pairs)) * (self.batches / self.total)

    @property
    def of_experts(self) -> float:
        """Factor before `of` for a term that is one per batch and no mean over pairs, so that it
        counts as its pairs do."""
        return 1.0 if self.is_plain else self.pairs / self.slots

    def mend(self, figures: Mapping[str, list[float]]) -> None:
        """Take the zeros of pairs that fill out of TRL's newest figures."""
        for name, values in figures.items():
            if values and name.startswith(_MEANS) and self.turn < self.turn_slots:
                values[-1] *= self.turn_slots / self.turn


def shares(
    batches: Sequence[Mapping[str, Any]], gather: Callable[[torch.Tensor], torch.Tensor]
) -> list[Share]:
    """Of the micro batches of a step; every process must ask.

    Args:
        batches: with `labels`, [2 * pairs, time], better answers first.
        gather: puts the tensors of all processes behind one another, [n] to [processes * n].
    """
    if not batches:
        return []
    own = torch.stack([_counted(batch["labels"]) for batch in batches])
    everywhere = gather(own.flatten()).reshape(-1, len(batches), 2)
    of_turns = everywhere.sum(dim=0).tolist()
    step = everywhere.shape[0] * len(batches), int(everywhere[:, :, 0].sum())
    return [
        Share(pairs, slots, turn, turn_slots, *step)
        for (pairs, slots), (turn, turn_slots) in zip(own.tolist(), of_turns, strict=True)
    ]


def _counted(labels: torch.Tensor) -> torch.Tensor:
    """[2]: pairs with a loss, and all."""
    better, worse = (labels != IGNORED).any(dim=1).chunk(2)
    found = better | worse
    return torch.stack([found.sum(), found.new_tensor(len(found), dtype=torch.int64)])
