"""Which rows stood in a step whose loss or gradient is not finite.

In: the micro batches of an optimizer step, with the numbers of the rows in them. Out: `Culprit` for
each micro batch that is to blame. Numbers travel with a batch as plain Python and never reach a
device, and nothing is looked at before a step has failed: then the batches, which the training loop
still holds, are measured once more, row by row.

What stops a run is `trainer.py`'s affair; files and lines are found by `stages/culprits.py`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from llmforge.build.loss import measured, set_numbers
from llmforge.build.loss_kernels import LeanLoss

ROWS = "rows"
"""Key of a training batch under which it says what stands in it; taken out before any model."""

Row = int | str
"""Where a sample comes from: the number of its row among the training rows, of streamed data its
place (`file:line`)."""

SOURCE_ROW, SAMPLES, PLACE = "source_row", "samples", "place"
"""Keys of an item that tell it: of a prepared sample, of a pack of them, of a streamed sample."""


@dataclass(frozen=True)
class Numbered:
    """A collator whose batches say under `ROWS` what stands in each of their rows."""

    collate: Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]

    def __call__(self, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As the collator; items that do not tell where they come from have no entry."""
        return {**self.collate(items), ROWS: [_origin(item) for item in items]}


def _origin(item: Mapping[str, Any]) -> tuple[str, tuple[Row, ...]]:
    """What kind of number, and the numbers: several of a pack, none of what does not tell."""
    for key in (SAMPLES, SOURCE_ROW, PLACE):
        if key in item:
            found = item[key]
            return key, tuple(found) if key == SAMPLES else (found,)
    return PLACE, ()


@dataclass
class Culprit:
    """A micro batch that is to blame, or cannot be ruled out."""

    rank: int
    micro_batch: int
    """Of the accumulation, counted from 1."""
    of: int
    """Micro batches of this rank in the step."""
    loss: float
    """The part of the step's loss that it gave."""
    gradient_norm: float | None = None
    """Of this micro batch alone; None where it was not measured."""
    rows: list[tuple[str, tuple[Row, ...]]] = field(default_factory=list)
    """What stands in each row of the batch."""
    row_losses: list[float] | None = None
    """Nats per token of each row, dropout off; None where it was not measured."""
    unmeasured: str = ""
    """Why not."""


class StepMemory:
    """The micro batches of the optimizer step that is being computed."""

    def __init__(self) -> None:
        self._batches: list[Any] = []
        self._rows: list[list[tuple[str, tuple[Row, ...]]]] = []

    def begin(self, batches: list[Any]) -> None:
        """A new step; takes `ROWS` out of its batches. They live as long as the loop holds them."""
        self._batches = batches
        self._rows = [batch.pop(ROWS, []) if isinstance(batch, dict) else [] for batch in batches]

    def culprits(
        self, rank: int, losses: Sequence[float], measure: Measure, by_gradient: bool
    ) -> list[Culprit]:
        """The micro batches of this rank that are to blame.

        Args:
            rank: this process.
            losses: of the micro batches so far.
            measure: looks at a batch once more.
            by_gradient: the losses are finite and the gradient is not; where no micro batch's own
                gradient is found to be, none is ruled out.
        """
        found = [
            Culprit(rank, number, len(self._batches), loss, rows=self._rows[number - 1])
            for number, loss in enumerate(losses[: len(self._batches)], 1)
            if by_gradient or not math.isfinite(loss)
        ]
        for culprit in found:
            measure(culprit, self._batches[culprit.micro_batch - 1], by_gradient)
        norms = [one for one in found if one.gradient_norm is not None]
        guilty = [one for one in norms if not math.isfinite(one.gradient_norm or 0.0)]
        return guilty or found


class Measure:
    """Measures a micro batch once more, on this process alone."""

    def __init__(
        self,
        model: Any,
        lean: LeanLoss | None,
        prepare: Callable[[Any], dict[str, Any]],
        autocast: Callable[[], Any],
        loss: Callable[[Any, dict[str, Any]], torch.Tensor],
    ) -> None:
        """
        Args:
            model: not wrapped for several processes; None where its weights are spread over them,
                so that none can measure alone.
            lean: computes the loss without whole logits.
            prepare: brings a batch to the device.
            autocast: context of the arithmetic.
            loss: the training loss of a batch.
        """
        self._model, self._lean, self._prepare = model, lean, prepare
        self._autocast, self._loss = autocast, loss

    def __call__(self, culprit: Culprit, batch: Any, gradient: bool) -> None:
        """Complete `culprit` by what can be found out; never fails for want of memory."""
        if self._model is None:
            culprit.unmeasured = "the weights are spread over processes"
            return
        try:
            culprit.row_losses = self._row_losses(batch)
            if gradient:
                culprit.gradient_norm = self._gradient_norm(batch)
        except (RuntimeError, TypeError, KeyError) as error:
            # of memory, or of a model that answers otherwise; the step has failed before this
            culprit.unmeasured = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        if culprit.row_losses is not None and len(culprit.row_losses) != len(culprit.rows):
            culprit.row_losses = None  # flash attention joins packs into one row
            culprit.unmeasured = "the packs of a batch are computed as one row"

    def _row_losses(self, batch: Any) -> list[float]:
        with _evaluating(self._model), torch.no_grad(), self._autocast():
            inputs = dict(self._prepare(batch))
            labels = inputs.pop("labels")
            set_numbers(inputs, len(labels))
            sums = measured(self._model, inputs, labels, self._lean).tolist()
        return [nll / tokens if tokens else 0.0 for nll, tokens in sums]

    def _gradient_norm(self, batch: Any) -> float:
        """By `torch.autograd.grad`, which wakes no hook that talks to other processes."""
        weights = [weight for weight in self._model.parameters() if weight.requires_grad]
        with self._autocast():
            loss = self._loss(self._model, self._prepare(batch))
        gradients = torch.autograd.grad(loss, weights, allow_unused=True)
        norms = [g.float().norm() for g in gradients if g is not None]
        return float(torch.stack([norm.cpu() for norm in norms]).norm()) if norms else 0.0


@contextmanager
def _evaluating(model: Any) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)
