"""What a checkpoint's config.json says of its own quantization.

In: the config as a dict. Out: `QuantizedBase`: method, bits, and what of it this project knows:
the packages that read it, and whether gradients pass through its layers. No weights are looked at.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PACKAGES_OF_METHOD = {
    "gptq": ("gptqmodel", "optimum"),
    "awq": ("gptqmodel",),
    "bitsandbytes": ("bitsandbytes",),
}
"""Method -> what transformers needs installed to load it."""

NO_GRADIENTS = frozenset(
    ("auto-round", "fbgemm_fp8", "gguf", "higgs", "metal", "mxfp4", "nvfp4", "quark",
     "spqr", "vptq")
)  # fmt: skip
"""Methods whose layers transformers does not let train an adapter (`is_trainable` is false)."""


@dataclass(frozen=True)
class QuantizedBase:
    """A checkpoint whose weights are quantized already."""

    method: str
    """`gptq`, `awq`, `bitsandbytes`, ... as the checkpoint spells it; `unknown` without one."""
    bits: int | None
    """Width of a weight; None where the config does not say."""

    @property
    def name(self) -> str:
        """As a message names it: `gptq, 4 bits`."""
        return f"{self.method}, {self.bits} bits" if self.bits else self.method


def quantized_base(config: Mapping[str, Any]) -> QuantizedBase | None:
    """The quantization of a config.json; None for plain weights.

    Models of several parts (`text_config`) have it on top, or in the part that is trained.
    """
    own = config.get("quantization_config")
    if not own and isinstance(config.get("text_config"), Mapping):
        own = config["text_config"].get("quantization_config")
    if not own:
        return None
    if not isinstance(own, Mapping):
        return QuantizedBase("unknown", None)
    four, eight = own.get("load_in_4bit"), own.get("load_in_8bit")
    method = str(own.get("quant_method") or "").lower()
    if not method and (four or eight):
        method = "bitsandbytes"  # old checkpoints do not name it
    bits = own.get("bits") or own.get("w_bit") or (4 if four else 8 if eight else None)
    return QuantizedBase(method or "unknown", bits if isinstance(bits, int) else None)
