"""Schema of number formats: sections `precision` and `quantization`.

In: nothing. Out: their spec classes. Rules that span sections live in `compiler/rules/`.
"""

from __future__ import annotations

from typing import Literal

from llmforge.registry import register
from llmforge.schema.base import Auto, Dtype, NonNegativeFloat, Spec

Held = Literal["float32", "weights"]
"""Format of a part of the model: single precision, or what `precision.weights` says."""


class PrecisionSpec(Spec):
    """Number formats, one section for all of them."""

    compute: Dtype | Auto
    """Format of the arithmetic (autocast); `auto` is bfloat16 on hardware that has it, else
    float32."""
    weights: Dtype | Auto
    """Format the weights are held in; `auto` is float32 for trained weights and the compute
    format for a frozen base under an adapter."""
    norms: Held | Auto
    """Format of the normalisation layers, trained or frozen; they are small, and rounding in them
    is felt in every layer. `weights` is the format of all other weights. `auto` is float32 over a
    quantized base and `weights` elsewhere. A final model keeps them as they are here; readers
    that load everything in one format round them."""
    embeddings: Held | Auto
    """Format of token and position embeddings and of the output head. `auto` is float32 over a
    bitsandbytes base and `weights` elsewhere. Together with `norms`, `auto` is what PEFT calls the
    preparation for k-bit training; `norms=weights embeddings=weights` leaves it out, which saves
    2 bytes per embedding parameter."""
    adapter: Held | Auto
    """Format of what is trained under an adapter, modules trained whole among it. `auto` is
    float32: small updates round to nothing in 16 bits. `weights` halves the adapter's memory."""


class QuantizationSpec(Spec):
    """How the frozen base is compressed."""

    kind: str


@register("quantization", "none")
class NoQuantization(QuantizationSpec):
    """Weights as they are in the checkpoint, one that bitsandbytes has saved among them."""

    kind: Literal["none"]


@register("quantization", "bitsandbytes")
class BitsAndBytes(QuantizationSpec):
    """bitsandbytes: int8 (LLM.int8(), arXiv:2208.07339) or 4-bit (QLoRA, arXiv:2305.14314)."""

    kind: Literal["bitsandbytes"]
    when: Literal["load", "after_build"]
    """`load` packs each weight as it is read, so that the full model is never held. `after_build`
    builds the whole model first, in `precision.weights`, and then packs its linear layers: the
    one way for a model from scratch. Both give the same numbers."""
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


@register("quantization", "gptq")
class Gptq(QuantizationSpec):
    """A base that is a GPTQ checkpoint (arXiv:2210.17323): bits and groups are the checkpoint's."""

    kind: Literal["gptq"]
    backend: Literal["auto_trainable", "auto", "torch", "triton"]
    """Kernels of GPT-QModel. `auto_trainable` is the fastest here that passes gradients on; `auto`
    is the fastest of all, which on many GPUs (ExLlama, Marlin) is one that cannot train; `torch`
    runs everywhere; `triton` needs a GPU."""
