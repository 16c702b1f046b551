"""Metrics, shipped and of the user's own: numbers per sample, summed, and one figure of the sums.

In: logits and labels of one batch after the other, or answers with their references. Out:
`eval_<name>`, of several evaluation sets over all of them and as `eval_<set>_<name>`.

A metric never sees more than a batch: what it says of each sample is added up, on the device, over
all batches and processes. So no logits are gathered, the figure is the same for every batch size
and number of processes, and a sample that fills up the last batch counts once.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from llmforge.build.sample import IGNORED

if TYPE_CHECKING:
    from llmforge.build.loss import HeldOut


class Metric(ABC):
    """What both kinds of metric have: sums to one figure."""

    @abstractmethod
    def compute(self, sums: Sequence[float]) -> float:
        """The figure.

        Args:
            sums: what `measure` gave, each of its numbers added up over all samples.
        """


class LogitsMetric(Metric):
    """A metric on what the model predicts for each token; measured at every evaluation.

        class Entropy(llmforge.LogitsMetric):
            def measure(self, logits, labels):
                counted = labels != -100
                entropy = torch.distributions.Categorical(logits=logits).entropy()
                return torch.stack([(entropy * counted).sum(dim=1), counted.sum(dim=1)], dim=1)

            def compute(self, sums):
                return sums[0] / max(sums[1], 1)

    With one of these, evaluation holds the whole logits of a batch.
    """

    @abstractmethod
    def measure(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Numbers of each sample that can be added up.

        Args:
            logits: [batch, time, vocabulary]; row `t` stands for the token of label `t`, so the
                shift is done already.
            labels: [batch, time]; -100 where a token carries no loss.

        Returns:
            [batch] or [batch, numbers].
        """


class TokenAccuracy(LogitsMetric):
    """Builder of `kind=token_accuracy`: the share of tokens that the model thinks likeliest.

    Of the tokens that carry loss; each is predicted from the true ones before it.
    """

    def measure(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """[batch, 2]: tokens hit, tokens predicted."""
        counted = labels != IGNORED
        hit = (logits.argmax(dim=-1) == labels) & counted
        return torch.stack([hit.sum(dim=1), counted.sum(dim=1)], dim=1)

    def compute(self, sums: Sequence[float]) -> float:
        """A share from 0 to 1; NaN where nothing carries loss."""
        return sums[0] / sums[1] if sums[1] else math.nan


class TextMetric(Metric):
    """A metric on generated answers, measured on the rows that are asked.

    Those are `evaluation.exact_match_rows` rows, answered greedily, at the end of a run, or at
    every evaluation (`evaluation.answers=always`).
    """

    @abstractmethod
    def measure(self, prompt: str, answer: str, reference: str) -> Sequence[float]:
        """Numbers of one answer that can be added up."""


class Measures:
    """Metrics on logits over one evaluation."""

    def __init__(self, metrics: Mapping[str, Metric], sets: Sequence[str] = ()) -> None:
        self._metrics = {n: m for n, m in metrics.items() if isinstance(m, LogitsMetric)}
        self._sets = sets
        self._widths: dict[str, int] = {}
        self._sums: torch.Tensor | None = None

    def __bool__(self) -> bool:
        return bool(self._metrics)

    def reset(self) -> None:
        """A new evaluation begins."""
        self._sums = None

    def of_batch(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Every metric's numbers beside each other: [batch, numbers], float64.

        Args:
            logits: [batch, time, vocabulary], as the model gives them.
            labels: [batch, time], not shifted.

        Raises:
            ValueError: a metric gives another number of rows than samples, or another width than
                before.
        """
        parts = []
        for name, metric in self._metrics.items():
            found = torch.as_tensor(metric.measure(logits[:, :-1], labels[:, 1:].to(logits.device)))
            found = found.double().reshape(found.shape[0], -1) if found.dim() else found
            if found.dim() != 2 or len(found) != len(labels):
                raise ValueError(
                    f"metric `{name}` gives {tuple(found.shape)} for {len(labels)} samples; "
                    "`measure` must give one row for each sample"
                )
            if self._widths.setdefault(name, found.shape[1]) != found.shape[1]:
                raise ValueError(f"metric `{name}` gives {found.shape[1]} numbers per sample, "
                                 f"and gave {self._widths[name]} before")  # fmt: skip
            parts.append(found)
        return torch.cat(parts, dim=1)

    def add(self, values: torch.Tensor, which: torch.Tensor) -> None:
        """Add samples: [batch, numbers], and [batch] the number of each one's evaluation set."""
        if self._sums is None:
            shape = max(1, len(self._sets)), values.shape[1]
            self._sums = values.new_zeros(shape, dtype=torch.float64)
        self._sums.index_add_(0, which.to(values.device).long(), values)

    def figures(self, prefix: str = "eval") -> dict[str, float]:
        """`eval_<name>`, and of several sets `eval_<set>_<name>` too; empty before any sample."""
        if self._sums is None:
            return {}
        found = self._of(self._sums.sum(dim=0).tolist(), prefix)
        if len(self._sets) > 1:
            for name, sums in zip(self._sets, self._sums.tolist(), strict=True):
                found |= self._of(sums, f"{prefix}_{name}")
        return found

    def _of(self, sums: list[float], prefix: str) -> dict[str, float]:
        found, start = {}, 0
        for name, metric in self._metrics.items():
            end = start + self._widths[name]
            found[f"{prefix}_{name}"] = float(metric.compute(sums[start:end]))
            start = end
        return found


def text_figures(
    metrics: Mapping[str, Metric], asked: Sequence[Mapping[str, Any]], prefix: str = "eval"
) -> dict[str, float]:
    """Figures of the metrics on text.

    Args:
        asked: {prompt, answer, reference} of each row that was asked; without any there are no
            figures.

    Raises:
        ValueError: a metric gives another number of figures for one answer than for another.
    """
    found = {}
    for name, metric in metrics.items():
        if not isinstance(metric, TextMetric) or not asked:
            continue
        rows = [
            [float(x) for x in metric.measure(one["prompt"], one["answer"], one["reference"])]
            for one in asked
        ]
        if len({len(row) for row in rows}) > 1:
            raise ValueError(f"metric `{name}` gives rows of different lengths")
        found[f"{prefix}_{name}"] = float(metric.compute([sum(c) for c in zip(*rows, strict=True)]))
    return found


def measured_too(
    model: Any, inputs: Mapping[str, Any], labels: torch.Tensor, measures: Measures
) -> tuple[torch.Tensor, torch.Tensor]:
    """One forward pass with whole logits: `token_nll` [batch, 2], and the metrics' numbers."""
    from llmforge.build.loss import token_nll

    outputs = model(**inputs)
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    return token_nll(logits, labels), measures.of_batch(logits, labels)


def held_out_figures(
    held_out: HeldOut, measures: Measures, prefix: str = "eval"
) -> dict[str, float]:
    """Loss figures and those of the metrics."""
    return held_out.metrics(prefix) | measures.figures(prefix)
