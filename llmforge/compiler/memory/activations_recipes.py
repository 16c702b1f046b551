"""How the families' layers differ, and what a forward pass is asked for.

In: `model_type` and, where it is known, the `config.json`. Out: a `Recipe`, read by
`activations_layers.py`. A key that the config lacks has the default of the family's configuration
class; a family without a row has Llama's recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.schema.adapter import AdapterSpec
from llmforge.schema.precision import QuantizationSpec


@dataclass(frozen=True)
class ForwardPass:
    """One forward pass on one device."""

    rows: int
    """Samples of the micro batch; under packing, packs."""
    length: int
    """Tokens of a padded row."""
    compute: str
    """float32, or the format that autocast asks for: bfloat16, float16."""
    weights: str
    """Format in which the model's weights are held."""
    attention: str
    """eager, sdpa, flash_attention_2 or flex_attention."""
    masked: bool
    """Rows are padded, or packs isolated by a mask, so that one is given."""
    checkpointing: bool
    """Each layer is computed again in the backward pass (not the reentrant kind)."""
    adapter: AdapterSpec
    quantization: QuantizationSpec
    device: str = "cuda"
    """`cpu`: what the CPU's kernels keep, which differs in dropout and norms."""
    norms: str | None = None
    """Format of norms; None: float32 over a bitsandbytes base, `weights` elsewhere."""
    embeddings: str | None = None
    """Format of embeddings and output head; None as for norms."""
    trained: str = "float32"
    """Format of an adapter, and of modules that are trained whole beside it."""


@dataclass(frozen=True)
class Recipe:
    """A family's layer."""

    norm: str = "llama"
    """llama, gemma or olmo: root mean square norms; layer: layer norms."""
    order: str = "pre"
    """Norms before attention and feed-forward layer (pre), after them and before the residual is
    added (post), both (sandwich), after it is added (after); or both parts side by side behind one
    norm (parallel) or two (parallel_two)."""
    head_norm: str = ""
    """Norms of queries and keys: over one head's channels (head), over all (whole)."""
    act: tuple[str, str] = ("hidden_act", "silu")
    """Key of the activation function, and its default."""
    rotary: float = 1.0
    """Share of a head's channels that turn with the position."""
    attention: str = "llama"
    """How the eager kernel is written: llama, gpt2, or upcast (GPT-J, GPT-Neo)."""
    softcap: float = 0.0
    """Scores pass through a tanh of this height; eager kernel only."""
    window: int = 0
    """Tokens that a layer with a sliding window sees; 0: no such layers."""
    pattern: int = 0
    """Every so many layers one sees all tokens; 0: none does."""
    no_rotary: int = 0
    """Every so many layers one has no rotary positions."""
    residual: tuple[str, float] = ("", 0.0)
    """Key and default of the dropout on what is added to the residual."""
    embedded: tuple[str, float] = ("", 0.0)
    """Of the dropout on the embeddings."""
    scores: tuple[str, float] = ("attention_dropout", 0.0)
    """Of the dropout on attention probabilities."""
    learned_positions: bool = False
    rotary_channels: int = 0
    """Overrules `rotary`."""
    joined: bool = False
    """Turned and unturned channels are joined: sdpa's result then has another layout than the
    output projection takes, and is copied."""


_NEO = ("activation_function", "gelu_new")

_RECIPES = {
    "mistral": Recipe(window=4096),
    "qwen3": Recipe(head_norm="head"),
    "qwen3_moe": Recipe(head_norm="head"),
    "gemma": Recipe("gemma", act=("hidden_act", "gelu_pytorch_tanh")),
    "gemma2": Recipe(
        *("gemma", "sandwich"),
        act=("hidden_activation", "gelu_pytorch_tanh"),
        softcap=50.0,
        window=4096,
        pattern=2,
    ),
    "gemma3_text": Recipe(
        *("gemma", "sandwich", "head"),
        act=("hidden_activation", "gelu_pytorch_tanh"),
        window=4096,
        pattern=6,
    ),
    "phi3": Recipe(joined=True, residual=("resid_pdrop", 0.0)),
    "stablelm": Recipe("layer", joined=True, rotary=0.25, residual=("hidden_dropout", 0.0)),
    "smollm3": Recipe(no_rotary=4),
    "olmo2": Recipe("olmo", "post", "whole"),
    "opt": Recipe(
        "layer",
        act=("activation_function", "relu"),
        rotary=0.0,
        residual=("dropout", 0.1),
        learned_positions=True,
    ),
    "gpt_neo": Recipe(
        "layer",
        act=_NEO,
        rotary=0.0,
        attention="upcast",
        residual=("resid_dropout", 0.0),
        embedded=("embed_dropout", 0.0),
        learned_positions=True,
    ),
    "gpt_neox": Recipe(
        *("layer", "parallel_two"),
        joined=True,
        act=("hidden_act", "gelu"),
        rotary=0.25,
        residual=("hidden_dropout", 0.0),
        embedded=("hidden_dropout", 0.0),
    ),
    "gptj": Recipe(
        *("layer", "parallel"),
        act=_NEO,
        attention="upcast",
        residual=("resid_pdrop", 0.0),
        embedded=("embd_pdrop", 0.0),
        scores=("attn_pdrop", 0.0),
        rotary_channels=64,
    ),
    "gpt2": Recipe(
        "layer",
        act=_NEO,
        rotary=0.0,
        attention="gpt2",
        residual=("resid_pdrop", 0.1),
        embedded=("embd_pdrop", 0.1),
        scores=("attn_pdrop", 0.1),
        learned_positions=True,
    ),
    "phi": Recipe(
        *("layer", "parallel"),
        joined=True,
        act=("hidden_act", "gelu_new"),
        rotary=0.5,
        residual=("resid_pdrop", 0.0),
        embedded=("embd_pdrop", 0.0),
    ),
}
_RECIPES["gemma3"] = _RECIPES["gemma3_text"]


class Options:
    """A family's recipe under one config."""

    def __init__(self, family: str, config: Mapping[str, Any] | None) -> None:
        whole = dict(config or {})
        text = whole.get("text_config")  # a model that also sees keeps the language model's there
        self.config = dict(text) if isinstance(text, Mapping) else whole
        self.recipe = _RECIPES.get(family, Recipe())
        self.family = family

    def number(self, key: str, default: float) -> float:
        """A key's number, or the default where it is absent, null or of another type."""
        value = self.config.get(key)
        return default if isinstance(value, bool) or not isinstance(value, int | float) else value

    def flag(self, key: str, default: bool = False) -> bool:
        """A key's truth."""
        value = self.config.get(key, default)
        return value if isinstance(value, bool) else default

    def dropout(self, which: tuple[str, float]) -> float:
        """A dropout's share, 0 to 1."""
        return self.number(*which) if which[0] else 0.0

    @property
    def order(self) -> str:
        """The recipe's, which some configs change."""
        if self.family == "opt" and not self.flag("do_layer_norm_before", default=True):
            return "after"
        if self.family == "stablelm" and self.flag("use_parallel_residual"):
            return "parallel"
        if self.family == "gpt_neox" and not self.flag("use_parallel_residual", default=True):
            return "pre"
        return self.recipe.order

    @property
    def head_norm(self) -> str:
        """The recipe's, or layer norms that Phi and StableLM have on demand."""
        return "layer" if self.flag("qk_layernorm") else self.recipe.head_norm

    @property
    def act(self) -> str:
        """Name of the activation function in transformers."""
        value = self.config.get(self.recipe.act[0])
        return value if isinstance(value, str) else self.recipe.act[1]

    def rotary_channels(self, head_dim: int) -> int:
        """Channels of a head that turn with the position."""
        if self.recipe.rotary_channels:
            return int(self.number("rotary_dim", self.recipe.rotary_channels))
        share = self.number("rotary_pct", self.number("partial_rotary_factor", self.recipe.rotary))
        rope = self.config.get("rope_parameters")
        if isinstance(rope, Mapping) and isinstance(rope.get("partial_rotary_factor"), float):
            share = rope["partial_rotary_factor"]
        return int(head_dim * share) if self.recipe.rotary else 0

    def turns(self, index: int) -> bool:
        """Has a layer rotary positions?"""
        given = self.config.get("no_rope_layers")
        if isinstance(given, list) and index < len(given):
            return bool(given[index])
        every = self.recipe.no_rotary
        return not every or (index + 1) % every != 0

    def window(self, index: int) -> int:
        """Tokens that a layer sees; 0: all before it."""
        chosen = self.family in ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe", "smollm3")
        if chosen and not self.flag("use_sliding_window"):
            return 0
        width = int(self.number("sliding_window", 4096 if chosen else self.recipe.window))
        if "sliding_window" in self.config and self.config["sliding_window"] is None:
            return 0
        types = self.config.get("layer_types")
        if isinstance(types, list) and index < len(types):
            return width if types[index] == "sliding_attention" else 0
        if chosen and self.family != "smollm3":
            return width if index >= self.number("max_window_layers", 28) else 0
        every = int(self.number("sliding_window_pattern", self.recipe.pattern))
        return 0 if every and (index + 1) % every == 0 else width
