"""What the formulas of every family share: the facts they give, reading of keys, linear modules.

In: the dict of a `config.json`. Out: `ModelFacts` and the types they are made of; `Keys`, which
reads a config and raises `BadConfig` where transformers would fail; `Layout` and `Block`, in which
the families differ. No family is described here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

_MOST_LAYERS = 10_000

ATTENTIONS = ("eager", "sdpa", "flash_attention_2", "flex_attention")
"""Implementations of attention that transformers has; not every class runs with each."""


class UnknownFamily(ValueError):
    """There are no formulas for the config's `model_type`."""


class BadConfig(ValueError):
    """A key is missing, has a wrong type or contradicts another one; `key` names it."""

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"config.json: {key} {problem}")
        self.key = key


@dataclass(frozen=True)
class LinearModule:
    """One `nn.Linear`, or `Conv1D` (GPT-2: the same map, its weight stored transposed)."""

    name: str
    """Full dotted name, such as `model.layers.0.self_attn.q_proj`."""
    out_features: int
    in_features: int
    bias: bool
    role: str
    """`attention`, `mlp`, `head`, `embedding_projection`, `router`, `vision`, or `other`."""

    @property
    def parameters(self) -> int:
        """Weight and bias."""
        return self.out_features * (self.in_features + self.bias)


@dataclass(frozen=True)
class ModelFacts:
    """What the compiler needs to know of a model before it exists."""

    family: str
    """config.json's `model_type`."""
    architecture: str
    """The class `AutoModelForCausalLM` builds, such as `LlamaForCausalLM`."""
    parameters: int
    """Distinct ones, those of every expert included: what is held in memory."""
    embedding_parameters: int
    """Input embedding and learned positions."""
    layers: int
    hidden: int
    intermediate: int
    """Width of the feed-forward layer."""
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int | None
    """The most positions."""
    tied_embeddings: bool
    linear_modules: tuple[LinearModule, ...]
    """In the model's own order, the output head last. Experts are none: transformers keeps those
    of a layer in two parameters of three dimensions."""
    attentions: tuple[str, ...] = ATTENTIONS
    """Implementations that the class runs with; it refuses to be built with another."""
    experts: int = 0
    """Experts of one layer, of which the router chooses; 0 without experts."""
    experts_per_token: int = 0
    """How many of them work on a token."""
    expert_intermediate: int = 0
    """Width of one expert's feed-forward layer."""
    expert_parameters: int = 0
    """Parameters of all experts of all layers, part of `parameters`."""

    @property
    def active_parameters(self) -> int:
        """Parameters that work on one token: all, without the experts not chosen."""
        if not self.experts:
            return self.parameters
        idle = self.experts - self.experts_per_token
        return self.parameters - self.expert_parameters // self.experts * idle


@dataclass(frozen=True)
class Block:
    """One layer."""

    modules: tuple[LinearModule, ...]
    """In order, named from the layer on."""
    norms: int
    """Parameters that are in no linear module and in no expert: norms, routers."""
    experts: int = 0
    """Parameters of its experts."""


@dataclass(frozen=True)
class Layout:
    """A family's own terms of the formula."""

    intermediate: int
    kv_heads: int
    head_dim: int
    blocks: tuple[Block, ...]
    """One for each layer."""
    final_norm: int
    learned_positions: int = 0
    """Rows; rotary positions have no parameters."""
    embedding_width: int = 0
    """0: hidden."""
    outer_modules: tuple[LinearModule, ...] = ()
    """Linear modules before the layers."""
    head_bias: bool = False
    experts: int = 0
    experts_per_token: int = 0
    expert_intermediate: int = 0


@dataclass(frozen=True)
class Family:
    """One row of the table of families."""

    architecture: str
    layers: str
    """Dotted name of the list of layers."""
    layout: Callable[[Keys], Layout]
    context: int
    """Default of `max_position_embeddings`."""
    tied: bool
    """Default of `tie_word_embeddings`."""
    own_names: Mapping[str, str] | None = None
    """The family's names of the common keys."""
    without: tuple[str, ...] = ()
    """Implementations of attention that its class refuses."""


class Keys:
    """Typed reading of a config; a wrong type is an error, as it is in transformers."""

    def __init__(self, config: Mapping[str, Any], family: Family) -> None:
        self._config, self._own_names = config, family.own_names or {}
        self.layers = self.size("num_hidden_layers")
        if self.layers > _MOST_LAYERS:  # a module list of that length would fill the memory
            raise BadConfig("num_hidden_layers", f"({self.layers}) is beyond any model")
        self.hidden = self.size("hidden_size")
        self.heads = self.size("num_attention_heads")
        self.vocabulary = self.size("vocab_size")
        self.context = self.size("max_position_embeddings", absent=family.context)
        self.tied = self.flag("tie_word_embeddings", family.tied)
        for key in ("per_layer_config", "add_cross_attention"):
            if config.get(key):
                raise BadConfig(key, "is not supported")

    def size(self, name: str, absent: int | None = None, null: int | None = None) -> int:
        """A positive number; the defaults stand in for a missing key and for a JSON null."""
        key = name if name in self._config else self._own_names.get(name, name)
        value = self._config.get(key)
        default = null if key in self._config else absent
        if value is None and default is not None:
            return default
        if type(value) is not int or value < 1:
            found = repr(value) if key in self._config else "missing"
            raise BadConfig(key, f"must be a positive whole number, is {found}")
        return value

    def numbers(self, name: str) -> tuple[int, ...]:
        """A list of whole numbers; empty where it is missing or null."""
        value = self._config.get(name)
        if value is None:
            return ()
        if not isinstance(value, list) or any(type(item) is not int for item in value):
            raise BadConfig(name, f"must be a list of whole numbers, is {value!r}")
        return tuple(value)

    def flag(self, name: bool | str, absent: bool = False) -> bool:
        """The key's value, or `name` itself where it is one already."""
        if isinstance(name, bool):
            return name
        value = self._config.get(name, absent)
        if not isinstance(value, bool):
            raise BadConfig(name, f"must be true or false, got {value!r}")
        return value

    def share(self) -> int:
        """The channels of one head when the heads split the hidden size."""
        if self.hidden % self.heads:
            key = self._own_names.get("hidden_size", "hidden_size")
            raise BadConfig(key, f"({self.hidden}) is no multiple of the {self.heads} heads")
        return self.hidden // self.heads


def linears(role: str, prefix: str, **shapes: tuple[int, int, bool]) -> tuple[LinearModule, ...]:
    """Modules from name=(out, in, bias)."""
    return tuple(LinearModule(f"{prefix}{name}", *shape, role) for name, shape in shapes.items())
