"""Samples to batches: padding, and nothing else.

In: prepared samples. Out: tensors `input_ids`, `attention_mask`, `labels`, each [batch, time].
Labels were decided when the data were prepared (`tokenize.py`); a padding position has label -100
and attention 0 because of where it stands, so it may share its id with the end token.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from llmforge.build.sample import IGNORED


@dataclass(frozen=True)
class Collator:
    """Pads a batch to its longest sample, rounded up to `multiple` but not over `max_length`."""

    pad_id: int
    side: str = "right"
    """`right` or `left`. Left padding also gives `position_ids`, so that a model with learned
    positions counts from the first real token."""
    multiple: int = 1
    max_length: int | None = None

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        lengths = [len(sample["input_ids"]) for sample in samples]
        longest = max(lengths)
        width = -(-longest // self.multiple) * self.multiple
        if self.max_length is not None:
            width = max(longest, min(width, self.max_length))
        shape = (len(samples), width)
        ids = np.full(shape, self.pad_id, dtype=np.int64)
        labels = np.full(shape, IGNORED, dtype=np.int64)
        mask = np.zeros(shape, dtype=np.int64)
        for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            place = slice(width - length, None) if self.side == "left" else slice(length)
            ids[row, place] = sample["input_ids"]
            labels[row, place] = sample["labels"]
            mask[row, place] = 1
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        if self.side == "left":
            batch["position_ids"] = np.maximum(mask.cumsum(axis=1) - 1, 0)
        return {name: torch.from_numpy(values) for name, values in batch.items()}
