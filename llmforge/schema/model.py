"""Schema of what is trained: model, tokenizer, precision, quantization, adapter.

In: nothing. Out: spec classes for the sections `model`, `tokenizer`, `precision`,
`quantization` and `lora`. Rules that span sections live in `compiler/rules/`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import (
    Auto,
    Dtype,
    Effect,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Spec,
)

Attention = Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"]
Family = Literal[
    "llama", "mistral", "qwen2", "qwen3", "gemma", "opt", "gpt2", "gpt_neo", "gpt_neox"
]


class ModelSpec(Spec):
    """What every model has, wherever its weights come from."""

    kind: str
    attention: Annotated[Attention, Effect.SPEED]
    """Attention implementation; `auto` picks the fastest the hardware and installation have."""


@register("model", "scratch", "llmforge.build.model:from_scratch")
class ScratchModel(ModelSpec):
    """Random weights of a given shape, named in neutral terms for every family."""

    kind: Literal["scratch"]
    family: Family
    """Architecture (`model_type` in a Hugging Face config.json)."""
    layers: Annotated[int, Field(ge=1, le=1000)]
    """Number of transformer blocks."""
    hidden: PositiveInt
    """Width of the residual stream; a multiple of `heads`."""
    intermediate: PositiveInt
    """Width of the feed-forward layer."""
    heads: PositiveInt
    """Attention heads."""
    kv_heads: PositiveInt
    """Key and value heads; equal to `heads` means no grouped-query attention."""
    context: Annotated[int, Field(ge=8)]
    """Longest sequence in tokens."""
    vocabulary: PositiveInt | Auto
    """Embedding rows; `auto` takes the tokenizer's size."""
    tie_embeddings: bool
    """Share the input embedding with the output head."""


@register("model", "folder", "llmforge.build.model:from_checkpoint")
class FolderModel(ModelSpec):
    """A checkpoint in a local folder: config.json and safetensors."""

    kind: Literal["folder"]
    path: Annotated[str, Effect.BOOKKEEPING]
    """Folder that holds config.json; its files' digests enter the fingerprint, not its path."""
    trust_remote_code: bool
    """Run Python code that lies in the folder. Only your own command line may turn this on."""


@register("model", "hub", "llmforge.build.model:from_checkpoint")
class HubModel(ModelSpec):
    """A checkpoint on the Hugging Face hub."""

    kind: Literal["hub"]
    id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    """Repository, such as `Qwen/Qwen2.5-0.5B`."""
    revision: str
    """Branch, tag or commit; a commit is the only one that cannot move."""
    trust_remote_code: bool
    """Run Python code from the repository. Only your own command line may turn this on."""


class TokenizerSpec(Spec):
    """Text to tokens."""

    effect = Effect.DATA

    source: Annotated[str, Effect.BOOKKEEPING]
    """`auto` (the model's own, or trained when the model is from scratch), `train`, `model`, or a
    local folder. Like the template's, its content enters the fingerprint, not its path."""
    vocabulary: Annotated[int, Field(ge=260)]
    """Size of a trained byte-level BPE vocabulary, special tokens included; unused otherwise."""
    chat_template: Annotated[str, Effect.BOOKKEEPING]
    """`auto` (the tokenizer's own, else ChatML), a name (`chatml`, `llama3`, `mistral`, `zephyr`,
    `alpaca`, ...), or the path of a Jinja file."""
    padding_side: Annotated[Literal["auto", "left", "right"], Effect.NUMERICS]
    """Side of the padding in training batches; `auto` is right. Generation always pads left."""


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


class AdapterSpec(Spec):
    """What is trained instead of all weights."""

    kind: str


@register("lora", "none")
class NoAdapter(AdapterSpec):
    """Full fine-tuning."""

    kind: Literal["none"]


@register("lora", "lora", "llmforge.build.adapter:wrap_lora")
class Lora(AdapterSpec):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685)."""

    kind: Literal["lora"]
    r: PositiveInt
    """Rank of the update."""
    alpha: PositiveInt
    """Numerator of the scale: alpha / r, or alpha / sqrt(r) with `rslora`."""
    dropout: Fraction
    """Dropout on the adapter's input."""
    targets: str | list[str]
    """`all-linear` (every linear layer but the output head), names of modules, or a regular
    expression that matches whole module names."""
    bias: Literal["none", "all", "lora_only"]
    """Which biases are trained as well."""
    rslora: bool
    """Rank-stabilised scale (Kalajdzievski 2023, arXiv 2312.03732)."""
    dora: bool
    """Weight-decomposed adapters (Liu et al. 2024, arXiv 2402.09353)."""
    modules_to_save: list[str]
    """Modules trained and saved whole beside the adapters (new embeddings, heads)."""
    expect_modules: NonNegativeInt
    """Refuse the plan when `targets` hits fewer modules than this; 0 asks for at least one."""
