"""Llama and kin: rotary positions, grouped key and value heads, a gated feed-forward layer.

In: `Keys` of a config. Out: a `Layout`. One function describes them all, `gated`; the other
functions here are families that keep it and add or fuse something. An absent key gets the default
of the family's configuration class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from llmforge.compiler.facts.families.base import (
    BadConfig,
    Block,
    Keys,
    Layout,
    LinearModule,
    linears,
)

_BIAS = "attention_bias"


@dataclass(frozen=True)
class Attention:
    """Query, key, value and output projections, and what they were made from."""

    modules: tuple[LinearModule, ...]
    kv_heads: int
    head_dim: int
    width: int
    """Channels of all heads together."""
    kv_width: int


def grouped_attention(
    keys: Keys,
    kv_heads: int = 0,  # default of num_key_value_heads; 0: as many as heads
    head_dim: int = 0,  # default of head_dim; 0: hidden / heads
    even_split: bool = False,  # heads must split hidden even when head_dim is given
    qkv: bool | str = False,  # biases, as they are or by the key that tells
    out: bool | str = False,
    qkv_default: bool = False,  # what an absent key means
) -> Attention:
    """The attention of a layer, named as in Llama."""
    h = keys.hidden
    kv_heads = keys.size("num_key_value_heads", absent=kv_heads or keys.heads, null=keys.heads)
    if keys.heads % kv_heads:
        raise BadConfig("num_key_value_heads", f"({kv_heads}) must divide the {keys.heads} heads")
    if even_split:
        keys.share()
    head_dim = keys.size("head_dim", absent=head_dim, null=0) or keys.share()
    width, kv_width, bias = keys.heads * head_dim, kv_heads * head_dim, keys.flag(qkv, qkv_default)
    q, kv, o = (width, h, bias), (kv_width, h, bias), (h, width, keys.flag(out))
    modules = linears("attention", "self_attn.", q_proj=q, k_proj=kv, v_proj=kv, o_proj=o)
    return Attention(modules, kv_heads, head_dim, width, kv_width)


def gated_mlp(
    hidden: int, inner: int, bias: bool = False, prefix: str = "mlp."
) -> tuple[LinearModule, ...]:
    """Gate, up and down projection."""
    up, down = (inner, hidden, bias), (hidden, inner, bias)
    return linears("mlp", prefix, gate_proj=up, up_proj=up, down_proj=down)


def gated(
    keys: Keys,
    kv_heads: int = 0,
    head_dim: int = 0,
    even_split: bool = False,
    qkv: bool | str = False,
    out: bool | str = False,
    mlp: bool | str = False,
    head_norms: int = 0,  # norms over the channels of one head: q_norm, k_norm
    layer_norms: int = 2,  # norms over the hidden channels
) -> Layout:
    """Every layer alike, with RMS norms: one parameter for each channel."""
    inner = keys.size("intermediate_size")
    found = grouped_attention(keys, kv_heads, head_dim, even_split, qkv, out)
    modules = found.modules + gated_mlp(keys.hidden, inner, keys.flag(mlp))
    norms = layer_norms * keys.hidden + head_norms * found.head_dim
    blocks = (Block(modules, norms),) * keys.layers
    return Layout(inner, found.kv_heads, found.head_dim, blocks, final_norm=keys.hidden)


def _olmo2(keys: Keys) -> Layout:
    """Norms over all channels of the queries and of the keys."""
    layout = gated(keys, qkv=_BIAS, out=_BIAS)
    width = (keys.heads + layout.kv_heads) * layout.head_dim
    return _norms(layout, 2 * keys.hidden + width, layout.final_norm)


def _stablelm(keys: Keys) -> Layout:
    """Layer norms (two parameters for each channel), a norm of its own for every head."""
    heads_share = keys.share()
    inner = keys.size("intermediate_size")
    kv_heads = keys.size("num_key_value_heads", absent=32)
    if keys.heads % kv_heads:
        raise BadConfig("num_key_value_heads", f"({kv_heads}) must divide the {keys.heads} heads")
    h, bias = keys.hidden, keys.flag("use_qkv_bias")
    q, kv, o = (h, h, bias), (kv_heads * heads_share, h, bias), (h, h, False)
    modules = linears("attention", "self_attn.", q_proj=q, k_proj=kv, v_proj=kv, o_proj=o)
    norms = 2 * h * (1 if keys.flag("use_parallel_residual") else 2)
    if keys.flag("qk_layernorm"):
        norms += (keys.heads + kv_heads) * heads_share  # without a bias
    block = Block(modules + gated_mlp(h, inner), norms)
    return Layout(inner, kv_heads, heads_share, (block,) * keys.layers, final_norm=2 * h)


def _phi3(keys: Keys) -> Layout:
    """Projections fused: queries, keys and values in one module, gate and up in another."""
    layout = gated(keys)
    h, inner, width = keys.hidden, layout.intermediate, keys.heads * layout.head_dim
    fused = width + 2 * layout.kv_heads * layout.head_dim
    attention = linears(
        "attention", "self_attn.", o_proj=(h, width, False), qkv_proj=(fused, h, False)
    )
    mlp = linears("mlp", "mlp.", gate_up_proj=(2 * inner, h, False), down_proj=(h, inner, False))
    blocks = (Block(attention + mlp, layout.blocks[0].norms),) * keys.layers
    return replace(layout, blocks=blocks)


def _norms(layout: Layout, of_layer: int, final: int) -> Layout:
    blocks = tuple(replace(block, norms=of_layer) for block in layout.blocks)
    return replace(layout, blocks=blocks, final_norm=final)


_gemma = partial(gated, head_dim=256, qkv=_BIAS, out=_BIAS)

GATED: dict[str, Callable[[Keys], Layout]] = {
    "llama": partial(gated, even_split=True, qkv=_BIAS, out=_BIAS, mlp="mlp_bias"),
    "mistral": partial(gated, kv_heads=8),
    "qwen2": partial(gated, kv_heads=32, qkv=True),
    "qwen3": partial(gated, kv_heads=32, head_dim=128, qkv=_BIAS, out=_BIAS, head_norms=2),
    "gemma": partial(_gemma, kv_heads=16),
    "gemma2": partial(_gemma, kv_heads=4, layer_norms=4),
    "gemma3_text": partial(_gemma, kv_heads=4, layer_norms=4, head_norms=2),
    "smollm3": partial(gated, kv_heads=4, qkv=_BIAS, out=_BIAS, mlp="mlp_bias"),
    "olmo2": _olmo2,
    "stablelm": _stablelm,
    "phi3": _phi3,
}
"""Layouts by `model_type`."""
