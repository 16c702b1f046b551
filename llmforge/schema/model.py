"""Schema of what is trained: sections `model` and `tokenizer`.

In: nothing. Out: their spec classes. Rules that span sections live in `compiler/rules/`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Auto, Effect, PositiveInt, Spec

Attention = Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"]
Family = Literal[
    "llama",
    "mistral",
    "qwen2",
    "qwen3",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "stablelm",
    "smollm3",
    "olmo2",
    "opt",
    "gpt2",
    "gpt_neo",
    "gpt_neox",
    "gptj",
    "phi",
]


Placement = Literal["auto", "balanced", "balanced_low_0", "sequential"]


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


class CheckpointModel(ModelSpec):
    """What every checkpoint has: where its parts are placed when one process trains it."""

    device_map: Annotated[Placement | dict[str, int | str] | None, Effect.SPEED]
    """Where the parts of the model lie, for one process over several devices; null leaves it to the
    trainer: all on one device, or sharded. `auto` and `balanced` fill the devices evenly,
    `balanced_low_0` keeps room on the first, `sequential` fills one after the other; what is left
    over goes to the CPU, then to `offload_folder`. A mapping names modules: `{model.embed_tokens:
    cpu, model.layers.0: disk}`, with a GPU's number, `cpu` or `disk`; all modules must have a
    place. Parts on `cpu` (of a GPU run) or `disk` are read anew in every pass, slowly, and must be
    frozen."""
    offload_folder: Annotated[str | None, Effect.BOOKKEEPING]
    """Folder for parts placed on `disk` that cannot be read where they lie: safetensors whose
    weights are loaded as they stand are read in place, those of mixtures of experts are regrouped
    first and written here. Null where none are."""


@register("model", "folder", "llmforge.build.model:from_checkpoint")
class FolderModel(CheckpointModel):
    """A checkpoint in a local folder: config.json and safetensors."""

    kind: Literal["folder"]
    path: Annotated[str, Effect.BOOKKEEPING]
    """Folder that holds config.json; its files' digests enter the fingerprint, not its path."""
    trust_remote_code: bool
    """Run Python code that lies in the folder. Only your own command line may turn this on."""


@register("model", "hub", "llmforge.build.model:from_checkpoint")
class HubModel(CheckpointModel):
    """A checkpoint on the Hugging Face hub."""

    kind: Literal["hub"]
    id: str = Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")
    """Repository, such as `Qwen/Qwen2.5-0.5B`."""
    revision: str
    """Branch, tag or commit; a commit is the only one that cannot move."""
    shape: Annotated[dict[str, Any] | None, Effect.BOOKKEEPING]
    """What its config.json says of sizes (`model_type`, `hidden_size`, ...), for plans made before
    it was downloaded; null if not known. A config.json in the hub cache wins over it."""
    trust_remote_code: bool
    """Run Python code from the repository. Only your own command line may turn this on."""


@register("model", "trained", "llmforge.build.model:from_checkpoint")
class TrainedModel(CheckpointModel):
    """What another run of llmforge trains. Its plan is compiled with this one, so both are checked
    and fingerprinted before either runs; `llmforge run` trains it first where it has to."""

    kind: Literal["trained"]
    overrides: Annotated[list[str], Effect.BOOKKEEPING]
    """That run's overrides, as they would stand on its command line, each in quotes:
    `["experiment=smoke", "seed=1"]`. Its fingerprint, not this text, enters the fingerprint of
    this run. Hardware, tracking and paths are this run's unless they stand here."""
    weights: Annotated[Literal["model", "fused"], Effect.BOOKKEEPING]
    """Which of its weights: those it trains, or those `llmforge fuse` makes of its adapter. Each
    has a fingerprint of its own, which enters this run's."""
    runs: Annotated[str | None, Effect.BOOKKEEPING]
    """Parent of that run's folder; null is `paths.runs`. A sweep, whose trials lie in a folder of
    their own, needs it to find a model outside."""


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
    add_bos: Annotated[bool | Auto, Effect.DATA]
    """Begin every text with the BOS token, in training and in the saved tokenizer; a text that
    brings it already gets no second one. Chats begin as their template says: llmforge's own follow
    this setting, a tokenizer's own has its own mind. `auto` is as the tokenizer came."""
    add_eos: Annotated[bool | Auto, Effect.BOOKKEEPING]
    """The saved tokenizer ends every text with the end token, as some readers want for training.
    Samples of this run end as the collator says, whatever stands here. `auto` is as the tokenizer
    came; false is right for generation."""
