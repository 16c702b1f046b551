"""Held-out loss, exact: summed over tokens, never averaged over batches.

In: logits and labels, or a model and a data set. Out: negative log likelihoods per sample, and the
three figures every evaluation reports.

A mean of per-batch means depends on which samples share a batch. Sums of token losses do not:

    eval_loss = sum of nll / tokens        eval_perplexity = exp(eval_loss)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.nn import functional

from llmforge.build.loss_kernels import FINISH, LeanLoss
from llmforge.build.measures import Measures, held_out_figures, measured_too
from llmforge.build.sample import IGNORED


def token_nll(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Summed negative log likelihood and number of predicted tokens of each sample.

    Args:
        logits: [batch, time, vocabulary], any float format.
        labels: [batch, time], not shifted; -100 carries no loss.

    Returns:
        [batch, 2], float64: nll in nats, tokens.
    """
    targets = labels[:, 1:].to(logits.device)
    sums = [
        # one sample at a time: a float32 copy of a whole batch's logits is what fills the memory
        functional.cross_entropy(row[:-1].float(), target, ignore_index=IGNORED, reduction="none")
        .double()
        .sum()
        for row, target in zip(logits, targets, strict=True)
    ]
    return torch.stack([torch.stack(sums), (targets != IGNORED).sum(dim=1).double()], dim=1)


def measured(
    model: Any, inputs: Mapping[str, Any], labels: torch.Tensor, lean: LeanLoss | None
) -> torch.Tensor:
    """`token_nll` of one forward pass: [batch, 2]; with `lean` its logits are never held whole."""
    if lean is not None:
        with lean.in_force():
            model(**inputs)
            return lean.token_nll(labels)
    outputs = model(**inputs)
    logits = outputs["logits"] if isinstance(outputs, dict) else outputs[0]
    return token_nll(logits, labels)


def loss_metrics(nll: float, tokens: float, prefix: str = "eval") -> dict[str, float]:
    """`eval_loss` (nats per token), `eval_perplexity`, `eval_tokens`."""
    loss = nll / tokens if tokens else math.nan
    # beyond 700 nats exp() overflows; the model is broken either way
    perplexity = loss if math.isnan(loss) else math.inf if loss > 700 else math.exp(loss)
    return {
        f"{prefix}_loss": loss,
        f"{prefix}_perplexity": perplexity,
        f"{prefix}_tokens": int(tokens),
    }


class HeldOut:
    """Sums of token losses, by evaluation set; kept on the device, read once at the end."""

    def __init__(self, sets: Sequence[str]) -> None:
        self._sets = sets
        self._sums: torch.Tensor | None = None

    def add(self, per_sample: torch.Tensor, which: torch.Tensor) -> None:
        """Add samples.

        Args:
            per_sample: [batch, 2], nll and tokens; or more numbers, of a class that tells others.
            which: [batch], the number of each sample's evaluation set.
        """
        if self._sums is None:
            shape = max(1, len(self._sets)), per_sample.shape[1]
            self._sums = per_sample.new_zeros(shape, dtype=torch.float64)
        self._sums.index_add_(0, which.to(per_sample.device).long(), per_sample.double())

    def metrics(self, prefix: str = "eval") -> dict[str, float]:
        """Figures over all samples, and of each set where there are several."""
        sums = [] if self._sums is None else self._sums.tolist()
        found = self._figures([sum(column) for column in zip(*sums, strict=True)], prefix)
        if len(self._sets) > 1:
            for name, of_set in zip(self._sets, sums, strict=False):
                found |= self._figures(of_set, f"{prefix}_{name}")
        return found

    def _figures(self, sums: list[float], prefix: str) -> dict[str, float]:
        """Of summed numbers; empty where there was no sample."""
        nll, tokens = sums or (0.0, 0.0)
        return loss_metrics(nll, tokens, prefix)


def set_numbers(inputs: dict[str, Any], samples: int) -> torch.Tensor:
    """[batch], the evaluation set of each sample, taken out of a batch; 0 where it says nothing."""
    found = inputs.pop("set", None)
    return torch.zeros(samples, dtype=torch.int64) if found is None else found


def autocast(model: Any, compute: str) -> contextlib.AbstractContextManager[Any]:
    """The plan's arithmetic for a model that no Trainer has wrapped; nothing for float32."""
    if compute == "float32":
        return contextlib.nullcontext()
    device = next(model.parameters()).device.type
    context: contextlib.AbstractContextManager[Any] = torch.autocast(
        device, dtype=getattr(torch, compute)
    )
    return context


def held_out_loss(
    model: Any,
    dataset: Any,
    collator: Any,
    batch: int,
    compute: str = "float32",
    sets: Sequence[str] = (),
    measures: Measures | None = None,
) -> dict[str, float]:
    """Loss of a model on a prepared data set, without a Trainer.

    Where the model's family is known, no batch's logits are ever held.

    Args:
        batch: samples per forward pass; changes the speed, not the figures.
        compute: format of the arithmetic; other than float32 runs under autocast, as training does.
        sets: names of the evaluation sets that the samples belong to.
        measures: metrics on logits, whose figures are told too; logits are then whole.
    """
    device = next(model.parameters()).device
    order = sorted(range(len(dataset)), key=dataset["length"][:].__getitem__, reverse=True)
    was_training = model.training
    model.eval()
    held_out = HeldOut(sets)
    known = model.config.model_type in FINISH
    lean = LeanLoss(model, "chunked") if known else None
    try:
        with torch.no_grad(), autocast(model, compute):
            for start in range(0, len(order), batch):
                inputs = collator([dataset[i] for i in order[start : start + batch]])
                inputs = {name: values.to(device) for name, values in inputs.items()}
                labels = inputs.pop("labels")
                which = set_numbers(inputs, len(labels))
                if measures:
                    per_sample, numbers = measured_too(model, inputs, labels, measures)
                    measures.add(numbers, which)
                else:
                    per_sample = measured(model, inputs, labels, lean)
                held_out.add(per_sample, which)
    finally:
        model.train(was_training)
    return held_out_figures(held_out, measures or Measures({}))
