"""Samples to batches: padding, and the borders between packed samples; nothing else.

In: prepared samples, or packs of them (`packing.PackedDataset`). Out: tensors. Labels were decided
when the data were prepared (`tokenize.py`); a padding position has label -100 because of where it
stands, so it may share its id with the end token.

Packed samples are told apart by their positions, which begin at 0 in each. From those transformers
makes the mask that keeps them apart (`masking_utils.find_packed_sequence_indices`), but only where
there is no `attention_mask` and no cache; with either it silently makes one mask for all. So a
packed batch has neither, padding counts as one more sample, and `use_cache` travels with the batch,
where no model's default can turn it on. Flash attention reads borders of a single row only, and is
given them. Whether a model goes by the positions at all is `compiler/facts/isolation.py`'s
question, and `canary.py`'s.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from llmforge.build.sample import IGNORED, REJECTED_IDS, REJECTED_LABELS

REFERENCE_LOGPS = ("ref_chosen_logps", "ref_rejected_logps")
"""Columns that TRL adds to pairs whose reference is computed beforehand, [batch] each."""

Whole = npt.NDArray[np.int64]


class _Row(NamedTuple):
    """One row of a batch before it is padded."""

    ids: npt.NDArray[Any]
    labels: npt.NDArray[Any]
    segments: list[int]


@dataclass(frozen=True)
class Collator:
    """Makes batches as long as their longest row, rounded up to `multiple`, not over `max_length`.

    Padded samples: `input_ids`, `attention_mask`, `labels`, each [batch, time].

    Packed samples: `input_ids`, `labels`, `position_ids`, each [batch, time], and `use_cache`. With
    flash attention all packs become one row, [1, total], and `cu_seq_lens_q` and `cu_seq_lens_k`,
    [samples + 1], int32, say where each sample begins; `max_length_q` and `max_length_k` are the
    longest one's tokens.
    """

    pad_id: int
    side: str = "right"
    """`right` or `left`. Left padding also gives `position_ids`, so that a model with learned
    positions counts from the first real token."""
    multiple: int = 1
    max_length: int | None = None
    attention: str = "sdpa"
    """Attention implementation of the model, as transformers names it."""

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Items with `segments` are packs. A column `set` becomes a tensor `set`, [batch].

        Of pairs the batch holds all better answers and then all worse ones: [2 * batch, time].
        """
        rows = samples
        if REJECTED_IDS in samples[0]:
            worse = ({"input_ids": s[REJECTED_IDS], "labels": s[REJECTED_LABELS]} for s in samples)
            rows = [*samples, *worse]
        batch = self._packed(rows) if "segments" in rows[0] else self._padded(rows)
        for name in REFERENCE_LOGPS:
            if name in samples[0]:
                batch[name] = torch.tensor([float(sample[name]) for sample in samples])
        if "set" in samples[0]:
            batch["set"] = torch.tensor([int(sample["set"]) for sample in samples])
        return batch

    def _padded(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        lengths = [len(sample["input_ids"]) for sample in samples]
        width = self._width(max(lengths), self.max_length)
        ids, labels = self._blank(len(samples), width)
        mask = np.zeros_like(ids)
        for row, (sample, length) in enumerate(zip(samples, lengths, strict=True)):
            place = self._place(length, width)
            ids[row, place] = sample["input_ids"]
            labels[row, place] = sample["labels"]
            mask[row, place] = 1
        batch = {"input_ids": ids, "attention_mask": mask, "labels": labels}
        if self.side == "left":
            batch["position_ids"] = np.maximum(mask.cumsum(axis=1) - 1, 0)
        return {name: torch.from_numpy(values) for name, values in batch.items()}

    def _packed(self, packs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        rows = [_Row(pack["input_ids"], pack["labels"], list(pack["segments"])) for pack in packs]
        flat, limit = is_flash(self.attention), self.max_length
        if flat:
            # only with one row do the kernels look for borders
            rows, limit = [_joined(rows)], None
        width = self._width(max(len(row.ids) for row in rows), limit)
        ids, labels = self._blank(len(rows), width)
        positions = np.empty_like(ids)
        for number, row in enumerate(rows):
            place = self._place(len(row.ids), width)
            ids[number, place] = row.ids
            labels[number, place] = row.labels
            positions[number] = _positions(self._with_padding(row.segments, width))
        batch: dict[str, Any] = {
            "input_ids": torch.from_numpy(ids),
            "labels": torch.from_numpy(labels),
            "position_ids": torch.from_numpy(positions),
            "use_cache": False,
        }
        if flat:
            segments = self._with_padding(rows[0].segments, width)
            borders = torch.from_numpy(np.cumsum([0, *segments], dtype=np.int32))
            batch |= {"cu_seq_lens_q": borders, "cu_seq_lens_k": borders.clone()}
            batch |= {"max_length_q": max(segments), "max_length_k": max(segments)}
        return batch

    def _with_padding(self, segments: list[int], width: int) -> list[int]:
        """Padding is a sample of its own: no real one sees it, and it sees none."""
        padding = [width - sum(segments)] if sum(segments) < width else []
        return padding + segments if self.side == "left" else segments + padding

    def _width(self, longest: int, limit: int | None) -> int:
        width = -(-longest // self.multiple) * self.multiple
        return width if limit is None else max(longest, min(width, limit))

    def _blank(self, rows: int, width: int) -> tuple[Whole, Whole]:
        ids = np.full((rows, width), self.pad_id, dtype=np.int64)
        return ids, np.full((rows, width), IGNORED, dtype=np.int64)

    def _place(self, length: int, width: int) -> slice:
        return slice(width - length, None) if self.side == "left" else slice(length)


def is_flash(attention: str) -> bool:
    """Flash attention, as a package or as a kernel of the hub (`owner/flash-attn3`)."""
    return "flash" in attention


def _joined(rows: list[_Row]) -> _Row:
    return _Row(
        np.concatenate([row.ids for row in rows]),
        np.concatenate([row.labels for row in rows]),
        [length for row in rows for length in row.segments],
    )


def _positions(segments: list[int]) -> Whole:
    """0, 1, 2, ... within each segment."""
    lengths = np.array(segments, dtype=np.int64)
    ends = np.cumsum(lengths)
    return np.arange(ends[-1], dtype=np.int64) - np.repeat(ends - lengths, lengths)
