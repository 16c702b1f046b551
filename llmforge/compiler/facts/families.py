"""Exact facts of a causal language model from its `config.json`, by formulas.

In: the dict of a Hugging Face `config.json`. Out: `ModelFacts`, equal to what the installed
transformers' `AutoModelForCausalLM.from_config` builds (the tests compare the two), without
importing it or torch. One formula serves every family:

    parameters = vocabulary * embedding width + learned positions * hidden + outer modules
               + layers * (one layer's linear modules + its norms) + final norm
               + the output head, unless it is tied to the input embedding

A linear module has out * in parameters, plus out for a bias; an RMS norm one per channel, a layer
norm two. To add a family, add a row to `_FAMILIES` at the end, with a function that makes the
`_Layout`, the terms in which families differ: mostly `_gated` or `_plain` with a few settings.

An absent key gets transformers' default, but layers, hidden, heads, vocabulary and MLP width must
be there: without them transformers would build its default model, here it is a `BadConfig`. Not
done: files, quantized storage, remote code, other heads, checks of keys that change no size.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

_MOST_LAYERS = 10_000


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

    name: str  # full dotted name, e.g. "model.layers.0.self_attn.q_proj"
    out_features: int
    in_features: int
    bias: bool
    role: str  # "attention" | "mlp" | "head" | "embedding_projection"


@dataclass(frozen=True)
class ModelFacts:
    """What the compiler needs to know of a model before it exists."""

    family: str  # config.json's model_type
    architecture: str  # the class AutoModelForCausalLM builds, e.g. "LlamaForCausalLM"
    parameters: int  # distinct ones: sum(p.numel() for p in model.parameters())
    embedding_parameters: int  # input embedding and learned positions
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    context: int | None  # the most positions
    tied_embeddings: bool
    linear_modules: tuple[LinearModule, ...]  # in the model's own order, the output head last


def known_families() -> tuple[str, ...]:
    """The values of `model_type` that have formulas."""
    return tuple(_FAMILIES)


def facts_from_config(config: Mapping[str, Any]) -> ModelFacts:
    """Raises `UnknownFamily` or `BadConfig`, both a `ValueError`."""
    name = config.get("model_type")
    if not isinstance(name, str):
        raise BadConfig("model_type", f"must be a string, got {name!r}")
    if name not in _FAMILIES:
        raise UnknownFamily(f"model_type {name!r} is none of the known: {', '.join(_FAMILIES)}")
    family = _FAMILIES[name]
    keys = _Keys(config, family)
    layout = family.layout(keys)
    width = layout.embedding_width or keys.hidden
    embedding = keys.vocabulary * width + layout.learned_positions * keys.hidden
    head = LinearModule("lm_head", keys.vocabulary, width, False, "head")
    body = layout.outer_modules + tuple(
        replace(module, name=f"{family.layers}.{index}.{module.name}")
        for index in range(keys.layers)
        for module in layout.modules
    )
    parameters = embedding + keys.layers * layout.norms + layout.final_norm
    for module in body if keys.tied else (*body, head):
        parameters += module.out_features * (module.in_features + module.bias)
    return ModelFacts(
        family=name,
        architecture=family.architecture,
        parameters=parameters,
        embedding_parameters=embedding,
        layers=keys.layers,
        hidden=keys.hidden,
        intermediate=layout.intermediate,
        heads=keys.heads,
        kv_heads=layout.kv_heads,
        head_dim=layout.head_dim,
        vocabulary=keys.vocabulary,
        context=keys.context,
        tied_embeddings=keys.tied,
        linear_modules=(*body, head),
    )


def match_modules(facts: ModelFacts, targets: str | Sequence[str]) -> tuple[LinearModule, ...]:
    """The linear modules that PEFT wraps for `target_modules=targets`, in the model's order.

    "all-linear" (in any case) is all but the output head; another string is a regular expression
    for the whole name; a list holds whole names or their endings after a dot. PEFT can wrap
    embeddings too; they are no linear modules and never in the result.
    """
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return tuple(m for m in facts.linear_modules if m.role != "head")
    if isinstance(targets, str):
        return tuple(m for m in facts.linear_modules if re.fullmatch(targets, m.name))
    endings = tuple(f".{target}" for target in targets)
    return tuple(m for m in facts.linear_modules if f".{m.name}".endswith(endings))


def lora_parameters(modules: Sequence[LinearModule], r: int) -> int:
    """Trainable parameters of LoRA at rank r: A is r x in and B is out x r for each module."""
    return sum(r * (module.in_features + module.out_features) for module in modules)


@dataclass(frozen=True)
class _Family:
    architecture: str
    layers: str  # dotted name of the list of layers
    layout: Callable[[_Keys], _Layout]
    context: int  # default of max_position_embeddings
    tied: bool  # default of tie_word_embeddings
    own_names: Mapping[str, str] | None = None  # the family's names of the common keys


@dataclass(frozen=True)
class _Layout:
    intermediate: int
    kv_heads: int
    head_dim: int
    modules: tuple[LinearModule, ...]  # of one layer, in order, named from the layer on
    norms: int  # parameters of one layer's norms
    final_norm: int
    learned_positions: int = 0  # rows; rotary positions have no parameters
    embedding_width: int = 0  # 0: hidden
    outer_modules: tuple[LinearModule, ...] = ()  # linear modules before the layers


class _Keys:
    """Typed reading of a config; a wrong type is an error, as it is in transformers."""

    def __init__(self, config: Mapping[str, Any], family: _Family) -> None:
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

    def flag(self, name: bool | str, absent: bool = False) -> bool:
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


def _linears(role: str, prefix: str, **shapes: tuple[int, int, bool]) -> tuple[LinearModule, ...]:
    """Modules from name=(out, in, bias)."""
    return tuple(LinearModule(f"{prefix}{name}", *shape, role) for name, shape in shapes.items())


def _gated(
    keys: _Keys,
    kv_heads: int = 0,  # default of num_key_value_heads; 0: as many as heads
    head_dim: int = 0,  # default of head_dim; 0: hidden / heads
    even_split: bool = False,  # heads must split hidden even when head_dim is given
    qkv: bool | str = False,  # biases, as they are or by the key that tells
    out: bool | str = False,
    mlp: bool | str = False,
    head_norms: int = 0,  # norms over the channels of one head: q_norm, k_norm
) -> _Layout:
    """Llama and kin: rotary positions, RMS norms, grouped key/value heads, a gated MLP."""
    h, inner = keys.hidden, keys.size("intermediate_size")
    kv_heads = keys.size("num_key_value_heads", absent=kv_heads or keys.heads, null=keys.heads)
    if keys.heads % kv_heads:
        raise BadConfig("num_key_value_heads", f"({kv_heads}) must divide the {keys.heads} heads")
    if even_split:
        keys.share()
    head_dim = keys.size("head_dim", absent=head_dim, null=0) or keys.share()
    width, bias = keys.heads * head_dim, keys.flag(qkv)
    kv, up = (kv_heads * head_dim, h, bias), (inner, h, keys.flag(mlp))
    q, o, down = (width, h, bias), (h, width, keys.flag(out)), (h, inner, keys.flag(mlp))
    attention = _linears("attention", "self_attn.", q_proj=q, k_proj=kv, v_proj=kv, o_proj=o)
    modules = attention + _linears("mlp", "mlp.", gate_proj=up, up_proj=up, down_proj=down)
    return _Layout(inner, kv_heads, head_dim, modules, 2 * h + head_norms * head_dim, final_norm=h)


def _plain(keys: _Keys, inner: int, modules: tuple[LinearModule, ...], rows: int = 0) -> _Layout:
    """GPT and kin: layer norms, keys and values for every head; rows of learned positions."""
    return _Layout(inner, keys.heads, keys.share(), modules, 4 * keys.hidden, 2 * keys.hidden, rows)


def _gpt2(keys: _Keys) -> _Layout:
    h, derived = keys.hidden, 4 * keys.hidden
    inner = keys.size("n_inner", absent=derived, null=derived)
    attention = _linears("attention", "attn.", c_attn=(3 * h, h, True), c_proj=(h, h, True))
    mlp = _linears("mlp", "mlp.", c_fc=(inner, h, True), c_proj=(h, inner, True))
    return _plain(keys, inner, attention + mlp, keys.context)


def _gpt_neo(keys: _Keys) -> _Layout:
    h, derived = keys.hidden, 4 * keys.hidden
    inner = keys.size("intermediate_size", absent=derived, null=derived)
    kvq = dict.fromkeys(("k_proj", "v_proj", "q_proj"), (h, h, False))
    attention = _linears("attention", "attn.attention.", **kvq, out_proj=(h, h, True))
    mlp = _linears("mlp", "mlp.", c_fc=(inner, h, True), c_proj=(h, inner, True))
    return _plain(keys, inner, attention + mlp, keys.context)


def _gpt_neox(keys: _Keys) -> _Layout:
    h, inner = keys.hidden, keys.size("intermediate_size")
    b = keys.flag("attention_bias", True)
    attention = _linears("attention", "attention.", query_key_value=(3 * h, h, b), dense=(h, h, b))
    mlp = _linears("mlp", "mlp.", dense_h_to_4h=(inner, h, True), dense_4h_to_h=(h, inner, True))
    return _plain(keys, inner, attention + mlp)


def _opt(keys: _Keys) -> _Layout:
    h, inner, bias = keys.hidden, keys.size("ffn_dim"), keys.flag("enable_bias", True)
    names = ("k_proj", "v_proj", "q_proj", "out_proj")
    attention = _linears("attention", "self_attn.", **dict.fromkeys(names, (h, h, bias)))
    mlp = _linears("mlp", "", fc1=(inner, h, bias), fc2=(h, inner, bias))
    layout = _plain(keys, inner, attention + mlp, keys.context + 2)  # its first two rows idle
    width = keys.size("word_embed_proj_dim", absent=h, null=h)
    if width != h:
        out, into = (width, h, False), (h, width, False)
        outer = _linears("embedding_projection", "model.decoder.", project_out=out, project_in=into)
        layout = replace(layout, embedding_width=width, outer_modules=outer)
    if not keys.flag("do_layer_norm_before", True) or keys.flag("_remove_final_layer_norm"):
        layout = replace(layout, final_norm=0)
    if not keys.flag("layer_norm_elementwise_affine", True):
        layout = replace(layout, norms=0, final_norm=0)
    return layout


_BIAS = "attention_bias"
_llama = partial(_gated, even_split=True, qkv=_BIAS, out=_BIAS, mlp="mlp_bias")
_mistral = partial(_gated, kv_heads=8)
_qwen2 = partial(_gated, kv_heads=32, qkv=True)
_qwen3 = partial(_gated, kv_heads=32, head_dim=128, qkv=_BIAS, out=_BIAS, head_norms=2)
_gemma = partial(_gated, kv_heads=16, head_dim=256, qkv=_BIAS, out=_BIAS)
_NEO_NAMES = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}
_GPT2_NAMES = {"num_hidden_layers": "n_layer", "num_attention_heads": "n_head"}
_GPT2_NAMES |= {"hidden_size": "n_embd", "max_position_embeddings": "n_positions"}
_FAMILIES = {
    "llama": _Family("LlamaForCausalLM", "model.layers", _llama, 2048, False),
    "mistral": _Family("MistralForCausalLM", "model.layers", _mistral, 131072, False),
    "qwen2": _Family("Qwen2ForCausalLM", "model.layers", _qwen2, 32768, False),
    "qwen3": _Family("Qwen3ForCausalLM", "model.layers", _qwen3, 32768, False),
    "gemma": _Family("GemmaForCausalLM", "model.layers", _gemma, 8192, True),
    "opt": _Family("OPTForCausalLM", "model.decoder.layers", _opt, 2048, True),
    "gpt_neo": _Family("GPTNeoForCausalLM", "transformer.h", _gpt_neo, 2048, True, _NEO_NAMES),
    "gpt_neox": _Family("GPTNeoXForCausalLM", "gpt_neox.layers", _gpt_neox, 2048, False),
    "gpt2": _Family("GPT2LMHeadModel", "transformer.h", _gpt2, 1024, True, _GPT2_NAMES),
}
