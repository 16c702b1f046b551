"""Schema of number formats: sections `precision` and `quantization`.

In: nothing. Out: their spec classes. Rules that span sections live in `compiler/rules/`.
"""

from __future__ import annotations

from typing import Literal

from llmforge.registry import register
from llmforge.schema.base import Auto, Dtype, NonNegativeFloat, Spec


class PrecisionSpec(Spec):
    """Number formats, one section for all of them."""

    compute: Dtype | Auto
    """Format of the arithmetic (autocast); `auto` is bfloat16 on hardware that has it, else
    float32."""
    weights: Dtype | Auto
    """Format the weights are held in; `auto` is float32 for trained weights and the compute
    format for a frozen base under an adapter."""


class QuantizationSpec(Spec):
    """How the frozen base is compressed at load."""

    kind: str


@register("quantization", "none")
class NoQuantization(QuantizationSpec):
    """Weights as they are."""

    kind: Literal["none"]


@register("quantization", "bitsandbytes")
class BitsAndBytes(QuantizationSpec):
    """bitsandbytes at load: int8 (LLM.int8()) or 4-bit (QLoRA)."""

    kind: Literal["bitsandbytes"]
    bits: Literal[4, 8]
    """Width a weight is held in."""
    quant_type: Literal["nf4", "fp4"] | None
    """4-bit only: number format of the blocks."""
    double_quant: bool | None
    """4-bit only: quantize the quantization constants as well."""
    int8_threshold: NonNegativeFloat | None
    """8-bit only: activations above this magnitude are computed in 16 bits."""
    int8_fp16_weight: bool | None
    """8-bit only: keep a 16-bit copy of the weights."""
