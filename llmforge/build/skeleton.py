"""Facts of a model that is built without weights, on the meta device; a process of its own.

In: `python -m llmforge.build.skeleton CONFIG.json`. Out: one line of JSON on the standard output:
`{"facts": ...}` with the fields of the compiler's `ModelFacts`, or `{"reason": ...}` where
transformers cannot build it. Nothing is downloaded, no code but transformers' own is run, and no
weight takes memory.

It does not decide when to look: `compiler/facts/probe.py` starts it and remembers what it said.
"""

from __future__ import annotations

import json
import os
import re
import sys
from pathlib import Path
from typing import Any

_NO_SIZES = ("auto_map", "quantization_config", "architectures")
"""Keys that name code to run, or how weights are stored that do not exist here."""

_MOST_LAYERS = 10_000
"""A module list of more would fill the memory, weights or not."""

_FLAGS = (
    ("sdpa", "_supports_sdpa"),
    ("flash_attention_2", "_supports_flash_attn"),
    ("flex_attention", "_supports_flex_attn"),
)
"""Implementations of attention, and where a class says that it runs with them."""

_ROLES = (
    ("vision", re.compile(r"vision|visual")),
    ("router", re.compile(r"(^|\.)(\w*router|gate|shared_expert_gate)$")),
    ("attention", re.compile(r"attn|attention")),
    ("mlp", re.compile(r"mlp|ffn|feed_?forward|experts?\b|dense_|(^|\.)fc\w*$")),
    ("embedding_projection", re.compile(r"project_(in|out)$|embed")),
)
"""What a linear module is for, by its name; the first that fits."""


def facts_of(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of `ModelFacts`, counted on the model that transformers builds.

    Raises:
        ValueError: transformers does not know the architecture, or it has no causal language model.
    """
    from transformers import CONFIG_MAPPING

    name = config["model_type"]
    if name not in CONFIG_MAPPING:
        raise ValueError("transformers does not know it")
    sizes = {key: value for key, value in config.items() if key not in _NO_SIZES}
    known = CONFIG_MAPPING[name].from_dict(sizes)
    text = known.get_text_config(decoder=True)
    if _size(text, "num_hidden_layers", 1) > _MOST_LAYERS:
        raise ValueError(f"{text.num_hidden_layers:,} layers are beyond any model")

    import torch
    from transformers import AutoModelForCausalLM

    if type(known) not in AutoModelForCausalLM._model_mapping:  # noqa: SLF001 - the one way to ask
        raise ValueError("transformers has no causal language model of it")
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(known, trust_remote_code=False)
    return count(name, text, model)


def count(family: str, config: Any, model: Any) -> dict[str, Any]:
    """What a built model says of itself; sizes that it does not tell are those of its config."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    modules = linear_modules(model, head)
    heads = _size(config, "num_attention_heads", 1)
    hidden = _size(config, "hidden_size", int(embedding.weight.shape[-1]))
    widest = max((m["out_features"] for m in modules if m["role"] == "mlp"), default=hidden)
    wide = _size(config, "intermediate_size", widest)
    context = getattr(config, "max_position_embeddings", None)
    found = {
        "family": family,
        "architecture": type(model).__name__,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "embedding_parameters": embedding.weight.numel() + _learned_positions(model, embedding),
        "layers": _size(config, "num_hidden_layers", 1),
        "hidden": hidden,
        "intermediate": wide,
        "heads": heads,
        "kv_heads": _size(config, "num_key_value_heads", heads),
        "head_dim": _size(config, "head_dim", hidden // heads),
        "vocabulary": int(embedding.weight.shape[0]),
        "context": context if isinstance(context, int) else None,
        "tied_embeddings": head is not None and head.weight is embedding.weight,
        "linear_modules": modules,
        "attentions": ["eager", *(k for k, flag in _FLAGS if getattr(model, flag, False))],
    }
    experts = [
        weight
        for name, weight in model.named_parameters()
        if ".experts." in name and weight.dim() == 3
    ]
    if experts:
        found |= {
            "experts": int(experts[0].shape[0]),
            "experts_per_token": _size(config, "num_experts_per_tok", 1),
            "expert_intermediate": _size(config, "moe_intermediate_size", wide),
            "expert_parameters": sum(weight.numel() for weight in experts),
        }
    return found


def linear_modules(model: Any, head: Any) -> list[dict[str, Any]]:
    """Every linear module in the model's order, the output head last."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    found: list[dict[str, Any]] = []
    last: list[dict[str, Any]] = []
    for name, module in model.named_modules():
        if not isinstance(module, nn.Linear | Conv1D):
            continue
        rows, columns = (int(size) for size in module.weight.shape)
        if isinstance(module, Conv1D):  # stored transposed
            rows, columns = columns, rows
        role = next((role for role, pattern in _ROLES if pattern.search(name)), "other")
        (last if module is head else found).append(
            {
                "name": name,
                "out_features": rows,
                "in_features": columns,
                "bias": module.bias is not None,
                "role": "head" if module is head else role,
            }
        )
    return [*found, *last]


def _learned_positions(model: Any, embedding: Any) -> int:
    """Parameters of further embeddings, those of positions by their name."""
    from torch import nn

    return sum(
        module.weight.numel()
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding)
        and module is not embedding
        and re.search(r"pos|wpe", name)
    )


def _size(config: Any, name: str, absent: int) -> int:
    value = getattr(config, name, None)
    return value if isinstance(value, int) else absent


def main(arguments: list[str]) -> int:
    """One config file, one line."""
    config = json.loads(Path(arguments[0]).read_text(encoding="utf-8"))
    # libraries print to stdout as they like; the answer needs a way of its own
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as out:
        os.dup2(2, 1)
        try:
            found: dict[str, Any] = {"facts": facts_of(config)}
        except Exception as error:  # whatever a configuration class raises is the answer
            found = {"reason": (str(error).strip() or type(error).__name__).splitlines()[0][:300]}
        json.dump(found, out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
