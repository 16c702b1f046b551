"""Mixtures of experts: a router and many gated feed-forward layers in place of one.

In: `Keys` of a config. Out: a `Layout`. transformers keeps all experts of a layer in two parameters
of three dimensions (gate and up; down), and the router in one of two, so none of them is a linear
module: adapters and quantization that work on linear modules pass them by.
"""

from __future__ import annotations

from collections.abc import Callable

from llmforge.compiler.facts.families.base import (
    BadConfig,
    Block,
    Keys,
    Layout,
    LinearModule,
    linears,
)
from llmforge.compiler.facts.families.gated import Attention, gated_mlp, grouped_attention

_BIAS = "attention_bias"


def _mixtral(keys: Keys) -> Layout:
    """Experts in every layer, as wide as the config's feed-forward layer."""
    found = grouped_attention(keys, kv_heads=8)
    inner = keys.size("intermediate_size")
    count, chosen = _experts(keys, 8, 2)
    sparse = _sparse(keys, found.modules, 2 * keys.hidden, count, inner)
    return _layout(keys, found, (sparse,) * keys.layers, inner, (count, chosen, inner))


def _qwen2_moe(keys: Keys) -> Layout:
    """Beside the experts one that works on every token, behind a gate of its own."""
    found = grouped_attention(keys, kv_heads=16, qkv="qkv_bias", qkv_default=True)
    h, shared = keys.hidden, keys.size("shared_expert_intermediate_size", absent=5632)
    always = gated_mlp(h, shared, prefix="mlp.shared_expert.")
    gate = linears("router", "mlp.", shared_expert_gate=(1, h, False))
    return _qwen(keys, found, 2 * h, (60, 4, 1408), always + gate)


def _qwen3_moe(keys: Keys) -> Layout:
    """Norms over the channels of one head, as in Qwen 3."""
    found = grouped_attention(keys, kv_heads=4, qkv=_BIAS, out=_BIAS)
    return _qwen(keys, found, 2 * keys.hidden + 2 * found.head_dim, (128, 8, 768))


def _qwen(
    keys: Keys,
    found: Attention,
    norms: int,
    defaults: tuple[int, int, int],
    always: tuple[LinearModule, ...] = (),
) -> Layout:
    """Layers with experts and without, as the config deals them out.

    Args:
        defaults: experts, experts per token and their width, of the configuration class.
        always: linear modules that stand beside the experts.
    """
    count, chosen = _experts(keys, *defaults[:2])
    width = keys.size("moe_intermediate_size", absent=defaults[2])
    inner = keys.size("intermediate_size")
    dense = Block(found.modules + gated_mlp(keys.hidden, inner), norms)
    sparse = _sparse(keys, found.modules + always, norms, count, width)
    step, never = keys.size("decoder_sparse_step", absent=1), keys.numbers("mlp_only_layers")
    blocks = tuple(
        dense if index in never or (index + 1) % step else sparse for index in range(keys.layers)
    )
    return _layout(keys, found, blocks, inner, (count, chosen, width))


def _experts(keys: Keys, count: int, chosen: int) -> tuple[int, int]:
    """How many there are, and how many work on a token."""
    count = keys.size("num_experts", absent=count)
    chosen = keys.size("num_experts_per_tok", absent=chosen)
    if chosen > count:
        raise BadConfig("num_experts_per_tok", f"({chosen}) is more than the {count} experts")
    return count, chosen


def _sparse(
    keys: Keys, modules: tuple[LinearModule, ...], norms: int, count: int, width: int
) -> Block:
    """A layer with experts: three maps each, and the router's row for each."""
    return Block(modules, norms + count * keys.hidden, experts=count * 3 * keys.hidden * width)


def _layout(
    keys: Keys,
    found: Attention,
    blocks: tuple[Block, ...],
    inner: int,
    experts: tuple[int, int, int],
) -> Layout:
    if not any(block.experts for block in blocks):
        experts = (0, 0, 0)
    return Layout(
        inner,
        found.kv_heads,
        found.head_dim,
        blocks,
        final_norm=keys.hidden,
        experts=experts[0],
        experts_per_token=experts[1],
        expert_intermediate=experts[2],
    )


EXPERTS: dict[str, Callable[[Keys], Layout]] = {
    "mixtral": _mixtral,
    "qwen2_moe": _qwen2_moe,
    "qwen3_moe": _qwen3_moe,
}
"""Layouts by `model_type`."""
