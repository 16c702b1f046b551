"""What fewer bits cost: perplexity, logits, speed and size, measured before and after.

In: a model and rows with labels, masked as they were for training. Out: `Measured`, and from two of
them the figures. Both models are measured in the same way on the same rows; the second one is what
was written, read back from its folder. Only one model is in memory at a time: of the first, the
logits of some tokens are kept.

Speed is that of the machine at hand with the kernels that are installed on it: on a CPU, unpacking
may cost more than the smaller weights save.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset

from llmforge.build.fusing.parity_figures import agree, overall
from llmforge.build.loss import HeldOut, held_out_loss, measured
from llmforge.build.sample import IGNORED

_COLUMNS = ("input_ids", "labels", "length")
_WARM = 4
"""Tokens that are generated before the clock runs: kernels are chosen and compiled there."""
_PROMPT = 32
"""Tokens of the prompt from which speed is measured."""


@dataclass(frozen=True)
class Rows:
    """What is measured on."""

    samples: Dataset
    """Columns `input_ids`, `labels`, `length`."""
    collator: Any
    batch: int
    what: str
    """For people: `held-out rows of the run`."""


@dataclass(frozen=True)
class Measured:
    """One model."""

    perplexity: float
    loss: float
    tokens: int
    """With a label."""
    logits: tuple[torch.Tensor, ...]
    """Of labelled positions, on the CPU in float32, row by row of the samples."""
    tokens_per_second: float | None
    """Greedy, one text at a time."""


def chosen(rows: Dataset, count: int | None, seed: int) -> Dataset:
    """Some rows by the seed, without what only other stages read."""
    rows = rows.select_columns([name for name in _COLUMNS if name in rows.column_names])
    if count is None or count >= len(rows):
        return rows
    order = np.random.RandomState(seed % 2**32).permutation(len(rows))
    return rows.select(sorted(int(number) for number in order[:count]))


def labelled(texts: Sequence[Sequence[int]]) -> Dataset:
    """Rows of token ids, every token of them with its label."""
    ids = [list(found) for found in texts if len(found) > 1]
    return Dataset.from_dict({"input_ids": ids, "labels": ids, "length": [len(n) for n in ids]})


def measure(model: Any, rows: Rows, compared: int, generated: int) -> Measured:
    """Perplexity, logits and speed of a model.

    Args:
        model: in evaluation mode, on its device.
        rows: see `Rows`.
        compared: predicted tokens whose logits are kept.
        generated: tokens to generate for the speed; 0 measures none.
    """
    figures = _held_out(model, rows)
    speed = _speed(model, rows, generated) if generated else None
    return Measured(
        figures["eval_perplexity"],
        figures["eval_loss"],
        int(figures["eval_tokens"]),
        tuple(_logits(model, rows, compared)),
        speed,
    )


def _held_out(model: Any, rows: Rows) -> dict[str, float]:
    packed = getattr(model.config, "quantization_config", None)
    method = getattr(packed, "quant_method", None)
    if method != "compressed-tensors":
        return held_out_loss(model, rows.samples, rows.collator, rows.batch)
    # its modules have calls of their own, round which the loss by pieces cannot reach
    device, sums = next(model.parameters()).device, HeldOut(())
    with torch.no_grad():
        for sample in rows.samples:
            batch = {name: values.to(device) for name, values in rows.collator([sample]).items()}
            labels = batch.pop("labels")
            sums.add(measured(model, batch, labels, None), torch.zeros(1, dtype=torch.int64))
    return sums.metrics()


def _logits(model: Any, rows: Rows, wanted: int) -> Iterator[torch.Tensor]:
    device = next(model.parameters()).device
    for sample in rows.samples:
        if wanted <= 0:
            return
        batch = {name: values.to(device) for name, values in rows.collator([sample]).items()}
        labels = batch.pop("labels")
        with torch.no_grad():
            logits = model(**batch).logits
        found = logits[0, :-1][labels[0, 1:] != IGNORED][:wanted]
        wanted -= len(found)
        if len(found):
            yield found.float().cpu()


def _speed(model: Any, rows: Rows, count: int) -> float:
    device = next(model.parameters()).device
    ids = torch.tensor([rows.samples[0]["input_ids"][:_PROMPT]], device=device)
    mask = torch.ones_like(ids)

    def run(tokens: int) -> float:
        began = time.perf_counter()
        model.generate(
            ids,
            attention_mask=mask,
            do_sample=False,
            min_new_tokens=tokens,
            max_new_tokens=tokens,
            pad_token_id=0,  # of one text nothing is padded; it is named so that nobody warns
        )
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    run(min(_WARM, count))
    return count / run(count)


def compare(before: Measured, after: Measured) -> dict[str, Any]:
    """The figures of a quantized model beside its source's."""
    found: dict[str, Any] = {
        "perplexity_before": before.perplexity,
        "perplexity_after": after.perplexity,
        "perplexity_growth": after.perplexity / before.perplexity - 1,
        "loss_before": before.loss,
        "loss_after": after.loss,
        "tokens_measured": before.tokens,
    }
    pairs = zip(before.logits, after.logits, strict=True)
    if parts := [agree(one, two, 0.0) for one, two in pairs]:
        whole = overall(parts)
        found |= {
            "mean_kl": whole.mean_kl,
            "max_kl": whole.max_kl,
            "agreement": whole.agreement,
            "tokens_compared": whole.tokens,
        }
    if before.tokens_per_second and after.tokens_per_second:
        found |= {
            "tokens_per_second_before": before.tokens_per_second,
            "tokens_per_second_after": after.tokens_per_second,
        }
    return found


def size_on_disk(folder: Path) -> int:
    """Bytes of the weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


def worst_layers(errors: Mapping[str, float], count: int = 5) -> dict[str, float]:
    """The layers with the largest errors."""
    return dict(sorted(errors.items(), key=lambda item: -item[1])[:count])
