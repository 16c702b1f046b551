"""The modules of a model that are not linear: norms, embeddings, and the blocks around them.

In: `ModelFacts`. Out: full names with what each is, for the families written down here; for any
other the blocks alone, which follow from the names of the linear modules. A test holds the names
equal to what transformers builds.
"""

from __future__ import annotations

import functools
import re
from typing import NamedTuple

from llmforge.compiler.facts.families import ModelFacts


class _Names(NamedTuple):
    embedding: str
    outer: tuple[str, ...]
    """Norms outside the layers; a name with `positions:` before it is the learned positions."""
    layer: tuple[str, ...]
    """Norms of a layer, named from the layer on."""


_TWO = ("input_layernorm", "post_attention_layernorm")
_HEADS = ("self_attn.q_norm", "self_attn.k_norm")
_AFTER = ("post_attention_layernorm", "post_feedforward_layernorm")
_FOUR = (*_TWO, "pre_feedforward_layernorm", "post_feedforward_layernorm")
_TABLE = "model.embed_tokens"
_PLAIN = _Names(_TABLE, ("model.norm",), _TWO)
_GPT = ("transformer.ln_f", "positions:transformer.wpe")
_NAMES = {
    **dict.fromkeys(("llama", "mistral", "mixtral", "qwen2", "gemma", "phi3", "smollm3"), _PLAIN),
    **dict.fromkeys(("qwen2_moe",), _PLAIN),
    "qwen3": _Names(_TABLE, ("model.norm",), (*_TWO, *_HEADS)),
    "qwen3_moe": _Names(_TABLE, ("model.norm",), (*_TWO, *_HEADS)),
    "gemma2": _Names(_TABLE, ("model.norm",), _FOUR),
    "gemma3_text": _Names(_TABLE, ("model.norm",), (*_FOUR, *_HEADS)),
    "olmo2": _Names(_TABLE, ("model.norm",), (*_AFTER, *_HEADS)),
    "phi": _Names(_TABLE, ("model.final_layernorm",), ("input_layernorm",)),
    "gpt2": _Names("transformer.wte", _GPT, ("ln_1", "ln_2")),
    "gpt_neo": _Names("transformer.wte", _GPT, ("ln_1", "ln_2")),
    "gptj": _Names("transformer.wte", ("transformer.ln_f",), ("ln_1",)),
    "gpt_neox": _Names("gpt_neox.embed_in", ("gpt_neox.final_layer_norm",), _TWO),
    "opt": _Names(
        "model.decoder.embed_tokens",
        ("model.decoder.final_layer_norm", "positions:model.decoder.embed_positions"),
        ("self_attn_layer_norm", "final_layer_norm"),
    ),
}

_LAYER = re.compile(r"(.*?\.\d+)\.")


def other_modules(model: ModelFacts) -> dict[str, str]:
    """Full name -> `norm`, `embedding`, `positions` or `block`, without linear modules."""
    return dict(_others(model.family, tuple(m.name for m in model.linear_modules)))


@functools.lru_cache(maxsize=8)
def _others(family: str, linear: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    found: dict[str, str] = {}
    layers: dict[str, None] = {}
    for name in linear:
        parts = name.split(".")
        found |= {".".join(parts[:length]): "block" for length in range(1, len(parts))}
        if layer := _LAYER.match(name):
            layers[layer[1]] = None
    names = _NAMES.get(family)
    if names is not None:
        found[names.embedding] = "embedding"
        for outer in names.outer:
            found[outer.removeprefix("positions:")] = (
                "positions" if outer.startswith("positions:") else "norm"
            )
        found |= {f"{layer}.{norm}": "norm" for layer in layers for norm in names.layer}
    return tuple(found.items())
