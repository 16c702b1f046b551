"""Neutral shapes of from-scratch models to each family's own `config.json` names.

In: a `ScratchModel` and a vocabulary size. Out: the dict that `AutoConfig.for_model` takes and
`families.facts_from_config` reads. Adding a family is one entry in `_NAMES`, and one in `_own_keys`
where its class has settings that do not fit every shape. Mixtures of experts have no neutral shape.
"""

from __future__ import annotations

from typing import Any

from llmforge.diagnostics import Diagnostic
from llmforge.schema.model import ScratchModel

# neutral name -> the family's name; a name that is missing here is a shape the family cannot have
_LLAMA = {
    "layers": "num_hidden_layers",
    "hidden": "hidden_size",
    "intermediate": "intermediate_size",
    "heads": "num_attention_heads",
    "kv_heads": "num_key_value_heads",
    "context": "max_position_embeddings",
}
_NO_GROUPS = {name: value for name, value in _LLAMA.items() if name != "kv_heads"}
_GPT = {
    "layers": "n_layer",
    "hidden": "n_embd",
    "intermediate": "n_inner",
    "heads": "n_head",
    "context": "n_positions",
}
_LEARNED_POSITIONS = ("opt", "gpt2", "gpt_neo")
_HEAD_WIDTH = ("qwen3", "gemma", "gemma2", "gemma3_text")
"""Families that fix the width of a head apart from hidden / heads."""
_NAMES: dict[str, dict[str, str]] = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "gemma": _LLAMA,
    "gemma2": _LLAMA,
    "gemma3_text": _LLAMA,
    "phi3": _LLAMA,
    "stablelm": _LLAMA,
    "smollm3": _LLAMA,
    "olmo2": _LLAMA,
    "phi": _LLAMA,
    "opt": {**_NO_GROUPS, "intermediate": "ffn_dim"},
    "gpt_neox": _NO_GROUPS,
    "gpt_neo": {**_NO_GROUPS, "layers": "num_layers", "heads": "num_heads"},
    "gpt2": _GPT,
    "gptj": _GPT,
}


def config_of(model: ScratchModel, vocabulary: int) -> dict[str, Any]:
    """The config dict of a from-scratch model; regularisation that trains worse is off."""
    names = _NAMES[model.family]
    config: dict[str, Any] = {
        "model_type": model.family,
        "vocab_size": vocabulary,
        "tie_word_embeddings": model.tie_embeddings,
        **{own: getattr(model, neutral) for neutral, own in names.items()},
    }
    return config | _own_keys(model)


def _own_keys(model: ScratchModel) -> dict[str, Any]:
    """Settings that a family's class has for its published models, made to fit this shape."""
    family, width = model.family, model.hidden // model.heads
    own: dict[str, Any] = {}
    if family in _HEAD_WIDTH:
        own["head_dim"] = width
    if family == "mistral":
        own["sliding_window"] = None
    if family in ("gemma2", "gemma3_text"):
        # a window as long as the context hides nothing
        own |= {"query_pre_attn_scalar": width, "sliding_window": model.context}
    if family in ("phi", "stablelm"):
        # a part of the head's channels need not be even
        own["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000.0}
        own["rope_parameters"]["partial_rotary_factor"] = 1.0
    if family == "gptj":
        own["rotary_dim"] = width
    if family == "opt":
        own |= {"word_embed_proj_dim": model.hidden, "dropout": 0.0}
    if family == "gpt2":
        own |= {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    if family == "gpt_neo":
        # the local windows of the published models are longer than any context used here
        own["attention_types"] = [[["global"], model.layers]]
    return own


def shape_faults(model: ScratchModel) -> list[Diagnostic]:
    """LF605: what keeps a shape from being built, each with the nearest shape that can be."""

    def fault(message: str, field: str, value: int) -> Diagnostic:
        return Diagnostic("LF605", message, key=f"model.{field}", hint=f"model.{field}={value}")

    found = []
    rotary = model.family not in _LEARNED_POSITIONS
    if model.hidden % model.heads:
        step = model.heads * (2 if rotary else 1)
        fitting = max(1, round(model.hidden / step)) * step
        found.append(
            fault(
                f"width {model.hidden} does not divide over {model.heads} heads", "hidden", fitting
            )
        )
    elif rotary and (model.hidden // model.heads) % 2:
        width = model.hidden // model.heads
        found.append(
            fault(
                f"heads of width {width} are odd; rotary positions need pairs",
                "hidden",
                model.hidden + model.heads,
            )
        )
    if "kv_heads" in _NAMES[model.family]:
        if model.heads % model.kv_heads:
            found.append(
                fault(
                    f"{model.heads} heads do not divide over {model.kv_heads} key-value heads",
                    "kv_heads",
                    model.heads,
                )
            )
    elif model.kv_heads != model.heads:
        found.append(
            fault(f"{model.family} has no grouped-query attention", "kv_heads", model.heads)
        )
    return found
