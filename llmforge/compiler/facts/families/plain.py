"""GPT and kin: layer norms, a feed-forward layer of two maps, mostly learned positions.

In: `Keys` of a config. Out: a `Layout`. A layer norm has two parameters for each channel. An absent
key gets the default of the family's configuration class.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from llmforge.compiler.facts.families.base import (
    BadConfig,
    Block,
    Keys,
    Layout,
    LinearModule,
    linears,
)


def _plain(
    keys: Keys, inner: int, modules: tuple[LinearModule, ...], rows: int = 0, layer_norms: int = 2
) -> Layout:
    """Keys and values for every head; `rows` of learned positions."""
    h = keys.hidden
    blocks = (Block(modules, layer_norms * 2 * h),) * keys.layers
    return Layout(inner, keys.heads, keys.share(), blocks, 2 * h, rows)


def _gpt2(keys: Keys) -> Layout:
    h, derived = keys.hidden, 4 * keys.hidden
    inner = keys.size("n_inner", absent=derived, null=derived)
    attention = linears("attention", "attn.", c_attn=(3 * h, h, True), c_proj=(h, h, True))
    mlp = linears("mlp", "mlp.", c_fc=(inner, h, True), c_proj=(h, inner, True))
    return _plain(keys, inner, attention + mlp, keys.context)


def _gpt_neo(keys: Keys) -> Layout:
    h, derived = keys.hidden, 4 * keys.hidden
    inner = keys.size("intermediate_size", absent=derived, null=derived)
    kvq = dict.fromkeys(("k_proj", "v_proj", "q_proj"), (h, h, False))
    attention = linears("attention", "attn.attention.", **kvq, out_proj=(h, h, True))
    mlp = linears("mlp", "mlp.", c_fc=(inner, h, True), c_proj=(h, inner, True))
    return _plain(keys, inner, attention + mlp, keys.context)


def _gpt_neox(keys: Keys) -> Layout:
    h, inner = keys.hidden, keys.size("intermediate_size")
    b = keys.flag("attention_bias", True)
    attention = linears("attention", "attention.", query_key_value=(3 * h, h, b), dense=(h, h, b))
    mlp = linears("mlp", "mlp.", dense_h_to_4h=(inner, h, True), dense_4h_to_h=(h, inner, True))
    return _plain(keys, inner, attention + mlp)


def _gptj(keys: Keys) -> Layout:
    """One norm for attention and feed-forward layer, which run side by side; a head with a bias."""
    h, derived = keys.hidden, 4 * keys.hidden
    inner = keys.size("n_inner", absent=derived, null=derived)
    names = ("k_proj", "v_proj", "q_proj", "out_proj")
    attention = linears("attention", "attn.", **dict.fromkeys(names, (h, h, False)))
    mlp = linears("mlp", "mlp.", fc_in=(inner, h, True), fc_out=(h, inner, True))
    return replace(_plain(keys, inner, attention + mlp, layer_norms=1), head_bias=True)


def _phi(keys: Keys) -> Layout:
    """As GPT-J, with grouped key and value heads and biases everywhere."""
    h, inner = keys.hidden, keys.size("intermediate_size")
    kv_heads = keys.size("num_key_value_heads", absent=keys.heads, null=keys.heads)
    if keys.heads % kv_heads:
        raise BadConfig("num_key_value_heads", f"({kv_heads}) must divide the {keys.heads} heads")
    share = keys.share()
    head_dim = keys.size("head_dim", absent=share)
    q, kv = (keys.heads * head_dim, h, True), (kv_heads * head_dim, h, True)
    dense = (h, keys.heads * head_dim, True)
    attention = linears("attention", "self_attn.", q_proj=q, k_proj=kv, v_proj=kv, dense=dense)
    mlp = linears("mlp", "mlp.", fc1=(inner, h, True), fc2=(h, inner, True))
    norms = 2 * h + (4 * share if keys.flag("qk_layernorm") else 0)
    blocks = (Block(attention + mlp, norms),) * keys.layers
    return Layout(inner, kv_heads, head_dim, blocks, final_norm=2 * h, head_bias=True)


def _opt(keys: Keys) -> Layout:
    h, inner, bias = keys.hidden, keys.size("ffn_dim"), keys.flag("enable_bias", True)
    names = ("k_proj", "v_proj", "q_proj", "out_proj")
    attention = linears("attention", "self_attn.", **dict.fromkeys(names, (h, h, bias)))
    mlp = linears("mlp", "", fc1=(inner, h, bias), fc2=(h, inner, bias))
    # the first two rows of positions idle
    layout = _plain(keys, inner, attention + mlp, keys.context + 2)
    width = keys.size("word_embed_proj_dim", absent=h, null=h)
    if width != h:
        out, into = (width, h, False), (h, width, False)
        outer = linears("embedding_projection", "model.decoder.", project_out=out, project_in=into)
        layout = replace(layout, embedding_width=width, outer_modules=outer)
    if not keys.flag("do_layer_norm_before", True) or keys.flag("_remove_final_layer_norm"):
        layout = replace(layout, final_norm=0)
    if not keys.flag("layer_norm_elementwise_affine", True):
        blocks = tuple(replace(block, norms=0) for block in layout.blocks)
        layout = replace(layout, blocks=blocks, final_norm=0)
    return layout


PLAIN: dict[str, Callable[[Keys], Layout]] = {
    "opt": _opt,
    "gpt_neo": _gpt_neo,
    "gpt_neox": _gpt_neox,
    "gptj": _gptj,
    "gpt2": _gpt2,
    "phi": _phi,
}
"""Layouts by `model_type`."""
