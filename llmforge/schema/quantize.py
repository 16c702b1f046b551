"""Schema of the section `quantize`: a finished model with fewer bits, and what that may cost.

In: nothing. Out: the specs by kind. Not to be confused with `quantization`, which packs the frozen
base of a training.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import (
    Auto,
    Dtype,
    Effect,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Spec,
)


class QuantizeSpec(Spec):
    """What all ways of quantizing have."""

    effect = Effect.QUANTIZE

    kind: str


@register("quantize", "none")
class NoQuantize(QuantizeSpec):
    """The model stays as it is."""

    kind: Literal["none"]


class Quantizing(QuantizeSpec):
    """What all ways of really quantizing have."""

    folder: Annotated[str | None, Effect.BOOKKEEPING]
    """Where to; null is `quantized/` in the run folder."""
    dtype: Dtype | Auto
    """Format of what is not packed: embeddings, norms, output head, and the arithmetic. `auto` is
    the source's own; GPTQ, whose kernels know 16 bits alone, takes bfloat16 for float32."""
    max_perplexity_growth: NonNegativeFloat | None
    """Largest growth of perplexity on the evaluation rows: 0.1 lets 10 % pass; null lets any. A
    model that grows more is not kept."""
    shard_size: Annotated[str, Effect.BOOKKEEPING, Field(pattern=r"^\d+(MB|GB)$")]
    """Largest weight file, such as `5GB`."""
    evaluation_rows: PositiveInt | None
    """Held-out rows of the run, chosen by the seed, on which perplexity is measured before and
    after; null takes all."""
    compare_tokens: NonNegativeInt
    """Predicted tokens of those rows whose logits are compared with the source's. Those of the
    source are held meanwhile: 4 bytes for each token and entry of the vocabulary."""
    speed_tokens: NonNegativeInt
    """Tokens generated greedily to measure the speed before and after; 0 measures none."""


class CalibrationSpec(Spec):
    """The samples whose activations decide how weights are rounded."""

    effect = Effect.QUANTIZE

    source: Literal["run", "data", "texts"]
    """`run`: the training samples of the run, token for token as it was trained on them. `data`:
    other rows, by `data`. `texts`: those in `texts`."""
    data: list[str]
    """For `source=data`: overrides that choose the rows, such as `[data=jsonl, data.train=a.jsonl]`
    or `[data=my_set]` for an option of the group `data`. They are prepared as the run's own are,
    by its tokenizer and template, and beside them."""
    texts: list[str]
    """For `source=texts`: the texts."""
    samples: PositiveInt
    """At most so many samples, chosen by the seed."""
    length: PositiveInt
    """Longest sample in tokens; what is longer is cut there, and at the model's context. All
    samples together must have as many tokens, or one model's context if that is shorter."""


@register("quantize", "gptq", "llmforge.build.quantizing.gptq:gptq")
class QuantizeGptq(Quantizing):
    """GPTQ (arXiv:2210.17323): the linear layers of all blocks, rounded column by column so that
    the outputs on calibration samples change least."""

    kind: Literal["gptq"]
    bits: Literal[2, 3, 4, 8]
    """Width of a weight."""
    group_size: Literal[-1, 32, 64, 128]
    """Inputs that share a scale; it must divide each layer's. Smaller is more exact and larger on
    disk; -1 is one scale for a whole row. Others are left out: the kernels that are taken by
    default on a CPU or a GPU do not read them."""
    symmetric: bool
    """The same range below and above zero; what most kernels read."""
    activation_order: bool
    """Columns with large activations first (`desc_act`): more exact, slower to read."""
    damping: Annotated[float, Field(gt=0.0, lt=1.0)]
    """Share of the Hessian's mean diagonal that is added to it; more where a layer cannot be
    inverted."""
    backend: Literal["auto", "gptqmodel", "auto_gptq"]
    """Library that rounds: GPT-QModel (`auto`), or AutoGPTQ, without a release since 2024, where it
    is installed and works."""
    kernel: Literal["auto", "auto_trainable", "torch", "exllama_v2", "marlin", "triton"]
    """Kernel that is named in the saved config and so taken when the folder is loaded. `torch` runs
    everywhere; `auto` is the fastest of the machine that loads it, which on a GPU may download and
    compile sources first, and refuse layers that are narrow; `auto_trainable` is the fastest that
    an adapter can be trained over."""
    calibration: CalibrationSpec


@register("quantize", "bitsandbytes", "llmforge.build.quantizing.packed:bitsandbytes")
class QuantizeBitsAndBytes(Quantizing):
    """bitsandbytes, saved packed: no calibration, and only PyTorch reads it."""

    kind: Literal["bitsandbytes"]
    bits: Literal[4, 8]
    """Width of a weight."""
    quant_type: Literal["nf4", "fp4"] | None
    """4-bit only: number format of the blocks."""
    double_quant: bool | None
    """4-bit only: quantize the quantization constants as well."""
    int8_threshold: NonNegativeFloat | None
    """8-bit only: activations above this magnitude are computed in 16 bits."""


@register("quantize", "compressed_tensors", "llmforge.build.quantizing.packed:compressed_tensors")
class QuantizeCompressed(Quantizing):
    """Integers rounded to the nearest, in the open format of compressed-tensors: no calibration;
    the same file loads on CPU and GPU, and in vLLM."""

    kind: Literal["compressed_tensors"]
    bits: Literal[4, 8]
    """Width of a weight."""
    group_size: PositiveInt | None
    """Inputs that share a scale, the same above and below zero; it must divide each layer's. Null
    is one scale for a row."""
