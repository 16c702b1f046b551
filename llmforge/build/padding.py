"""How much of a batch is padding: foretold from the lengths of the samples.

In: lengths, and how batches are made. Out: `Padding`. Nothing is trained or collated here; the
order of batches is drawn as training draws it, not with the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmforge.plan import Plan

_MEGA_BATCH = 50
"""Batches that Hugging Face's length-grouped sampler sorts together."""


@dataclass(frozen=True)
class Padding:
    """Of one pass over the training samples."""

    tokens: int
    """Places that hold no sample's token."""
    share: float
    """Of all places."""
    batches: str
    """How batches are made, in words."""


def foretell_padding(plan: Plan, lengths: Any, packed_tokens: int | None = None) -> Padding:
    """Padding of an epoch.

    Args:
        lengths: [samples] tokens of each.
        packed_tokens: room of all packs, where samples are packed.
    """
    lengths = np.asarray(lengths, dtype=np.int64)
    total = int(lengths.sum())
    if packed_tokens is not None:
        return _padding(total, packed_tokens, "packed rows")
    spec = plan.spec
    micro, multiple = int(spec.trainer.micro_batch), spec.collator.pad_to_multiple
    order = np.random.RandomState(spec.seed % 2**32).permutation(len(lengths))
    how = f"batches of {micro}"
    if spec.trainer.group_by_length:
        how += " of like length"
        chunk = _MEGA_BATCH * micro
        starts = range(0, len(order), chunk)
        order = np.concatenate(
            [part[np.argsort(-lengths[part])] for part in (order[s : s + chunk] for s in starts)]
        )
    longest = np.maximum.reduceat(lengths[order], np.arange(0, len(order), micro))
    widths = np.minimum(-(-longest // multiple) * multiple, int(spec.collator.max_length))
    widths = np.maximum(widths, longest)
    sizes = np.full(len(widths), micro)
    sizes[-1] = len(lengths) - micro * (len(widths) - 1)
    return _padding(total, int((widths * sizes).sum()), how)


def _padding(tokens: int, places: int, how: str) -> Padding:
    return Padding(places - tokens, (places - tokens) / places if places else 0.0, how)
