"""Which models keep packed samples apart, by family and attention implementation.

In: a family (`model_type`), an attention implementation, installed versions. Out: a `Verdict`. The
table is what was seen: tiny random models of each family were given two packed samples, the first
was changed, and the logits of the second stayed what they are for it alone (or did not). The tests
(`tests/build/test_isolation.py`) repeat that for every row: `eager`, `sdpa` and `flex_attention` as
they run on a CPU; `flash` with an attention in place of its kernels that honours the borders it is
given, and only those. The kernels themselves, and flex attention's compiled form, are run on a GPU
(`tests/e2e/test_gpu_packing.py`).

How packed samples are presented to a model is `build/collate.py`'s; that the very model of a run
keeps them apart is proved once more when it starts (`build/canary.py`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

MASKED = ("eager", "sdpa", "flex_attention")
"""Implementations that are given a mask; the others are given borders."""

_FIRST_TRANSFORMERS = (5, 17)
"""The oldest release the table was checked with."""

_EVERY = frozenset({*MASKED, "flash"})
_NOT_FLEX = _EVERY - {"flex_attention"}

_ISOLATES: Mapping[str, frozenset[str]] = {
    "cohere": _EVERY,
    "cohere2": _EVERY,
    "exaone4": _EVERY,
    "gemma": _EVERY,
    "gemma2": _EVERY - {"sdpa"},
    "gemma3_text": _EVERY,
    "glm4": _EVERY,
    "gpt2": _NOT_FLEX,
    "gpt_neo": frozenset({"eager"}),
    "gpt_neox": _EVERY,
    "granite": _EVERY,
    "llama": _EVERY,
    "mistral": _EVERY,
    "mixtral": _EVERY,
    "olmo2": _EVERY,
    "opt": frozenset({"flash"}),
    "phi": _EVERY,
    "phi3": _EVERY,
    "qwen2": _EVERY,
    "qwen2_moe": _EVERY,
    "qwen3": _EVERY,
    "qwen3_moe": _EVERY,
    "smollm3": _EVERY,
    "stablelm": frozenset({"eager", "sdpa"}),
    "starcoder2": _EVERY,
}

_WITHOUT_POSITIONS = ("biogpt", "bloom", "falcon", "mpt", "opt", "xglm")
"""Their masks are made without looking at the positions: one mask for all samples of a row."""

_RECURRENT = (
    "bamba",
    "falcon_h1",
    "falcon_mamba",
    "jamba",
    "lfm2",
    "mamba",
    "mamba2",
    "minimax",
    "qwen3_next",
    "recurrent_gemma",
    "rwkv",
    "zamba2",
)
"""State-space, linear-attention, convolution layers: they carry what they read on and on."""


@dataclass(frozen=True)
class Verdict:
    """May samples be packed into one row?"""

    ok: bool
    reason: str
    """Goes on after the family's and the attention's names: `carry state across the border`."""


def known_combinations() -> tuple[tuple[str, str], ...]:
    """Family and attention of every combination that isolates; `flash` is any flash attention."""
    return tuple((family, found) for family in _ISOLATES for found in sorted(_ISOLATES[family]))


def isolates(family: str, attention: str, versions: Mapping[str, str]) -> Verdict:
    """Does this model, with this attention, keep the samples of a packed row apart?

    `attention` is transformers' name, kernels of the hub included; `versions` holds installed
    packages, and one that is not in it is taken to be recent. What is not known does not isolate.
    """
    name = "flash" if "flash" in attention else attention
    if _older(versions.get("transformers"), _FIRST_TRANSFORMERS):
        wanted = ".".join(map(str, _FIRST_TRANSFORMERS))
        return Verdict(False, f"transformers {versions['transformers']} is older than {wanted}")
    if name in _ISOLATES.get(family, ()):
        by = "borders given to the kernels" if name == "flash" else "a mask made from the positions"
        return Verdict(True, f"kept apart by {by}")
    if family in _RECURRENT:
        return Verdict(False, "its layers carry state from each sample into the next")
    if family in _WITHOUT_POSITIONS and name in MASKED:
        return Verdict(False, "its mask is made without the positions that tell samples apart")
    if family in _ISOLATES:
        others = " or ".join(sorted(_ISOLATES[family]))
        return Verdict(False, f"this family was seen to keep them apart with {others} only")
    return Verdict(False, "nobody has looked whether this family keeps them apart")


def _older(version: str | None, than: tuple[int, ...]) -> bool:
    if version is None:
        return False
    return tuple(int(part) for part in re.findall(r"\d+", version)[: len(than)]) < than
