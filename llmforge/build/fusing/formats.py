"""Formats of fused weights: which one each takes, and rounding to it.

In: tensors in float32, or as they lie in a file. Out: tensors in the format asked for, finite ones.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch

from llmforge.build.fusing.deltas import NotFusable

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Formats that a tensor may change from; others (masks, positions) stay."""


class NotFinite(NotFusable):
    """A merged weight is infinite or no number, in the format asked for."""


def name_of(dtype: torch.dtype) -> str:
    """`torch.bfloat16` as `"bfloat16"`."""
    return str(dtype).removeprefix("torch.")


def commonest(found: Iterable[tuple[torch.dtype, int]]) -> str:
    """The floating format of most elements, by name; of (format, elements) pairs."""
    sums: dict[torch.dtype, int] = {}
    for dtype, elements in found:
        if dtype.is_floating_point:
            sums[dtype] = sums.get(dtype, 0) + elements
    return name_of(max(sums, key=lambda dtype: sums[dtype]))


def rounded(name: str, value: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """A tensor in a format.

    Raises:
        NotFinite: it is not finite there.
    """
    made = value.to(dtype)
    # the two ends tell, without a table of truth values as large as the weight
    if (
        made.is_floating_point()
        and made.numel()
        and not all(map(math.isfinite, map(float, made.aminmax())))
    ):
        raise NotFinite(f"{name} does not fit {name_of(dtype)}, or holds no numbers, once merged")
    return made


def kept_in_float32(model: Any, dtype: torch.dtype | None) -> Callable[[str], bool]:
    """Weights that transformers holds in float32 whatever is asked for."""
    kept: set[str] = set()
    if dtype in (torch.float16, torch.bfloat16):
        kept |= set(model._keep_in_fp32_modules_strict or ())  # noqa: SLF001 - no public name
    if dtype == torch.float16:
        kept |= set(model._keep_in_fp32_modules or ())  # noqa: SLF001 - no public name
    if not kept:
        return lambda _: False
    known = re.compile("|".join(rf"((^|\.){re.escape(name)}($|\.))" for name in sorted(kept)))
    return lambda name: known.search(name) is not None
