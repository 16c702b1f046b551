"""Facts of a model that is built without weights, on the meta device; a process of its own.

In: `python -m llmforge.build.skeleton CONFIG.json`. Out: one line of JSON on the standard output:
`{"facts": ...}` with the fields of `ModelFacts`, or `{"reason": ...}` where transformers cannot
build it. Nothing is downloaded, no code but transformers' own is run, and no weight takes memory.

It does not decide when to look: `compiler/facts/probe.py` starts it, and remembers what it said.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

_NOT_SIZES = ("auto_map", "quantization_config", "architectures")
"""Keys that name code to run, or storage of weights that do not exist here."""


def facts_of(config: dict[str, Any]) -> dict[str, Any]:
    """The fields of `ModelFacts`, counted on the model that transformers builds.

    Raises:
        ValueError: transformers does not know the architecture, or it has no causal language model.
    """
    from transformers import CONFIG_MAPPING

    name = config["model_type"]
    if name not in CONFIG_MAPPING:
        raise ValueError("transformers does not know it")
    sizes = {key: value for key, value in config.items() if key not in _NOT_SIZES}
    known = CONFIG_MAPPING[name].from_dict(sizes)

    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(known, trust_remote_code=False)
    return count(name, known.get_text_config(decoder=True), model)


def count(family: str, config: Any, model: Any) -> dict[str, Any]:
    """What a built model says of itself; sizes that it does not tell are those of its config."""
    head, embedding = model.get_output_embeddings(), model.get_input_embeddings()
    modules = linear_modules(model, head)
    heads = _size(config, "num_attention_heads", 1)
    hidden = _size(config, "hidden_size", embedding.weight.shape[-1])
    experts = {
        name: weight for name, weight in model.named_parameters() if ".experts." in f".{name}."
    }
    stacked = next((weight for weight in experts.values() if weight.dim() == 3), None)
    context = getattr(config, "max_position_embeddings", None)
    learned = [m for n, m in model.named_modules() if _is_positions(n, m, embedding)]
    wide = _size(config, "moe_intermediate_size", _size(config, "intermediate_size", 0))
    return {
        "family": family,
        "architecture": type(model).__name__,
        "parameters": sum(weight.numel() for weight in model.parameters()),
        "embedding_parameters": sum(m.weight.numel() for m in (embedding, *learned)),
        "layers": _size(config, "num_hidden_layers", 1),
        "hidden": hidden,
        "intermediate": _size(config, "intermediate_size", _widest(modules)),
        "heads": heads,
        "kv_heads": _size(config, "num_key_value_heads", heads),
        "head_dim": _size(config, "head_dim", hidden // heads),
        "vocabulary": embedding.weight.shape[0],
        "context": context if isinstance(context, int) else None,
        "tied_embeddings": head is not None and head.weight is embedding.weight,
        "linear_modules": modules,
        "experts": 0 if stacked is None else int(stacked.shape[0]),
        "experts_per_token": 0 if stacked is None else _size(config, "num_experts_per_tok", 1),
        "expert_intermediate": 0 if stacked is None else wide,
        "expert_parameters": sum(w.numel() for w in experts.values() if w.dim() == 3),
    }


def linear_modules(model: Any, head: Any) -> list[dict[str, Any]]:
    """Every linear module in the model's order, the output head last."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    from llmforge.compiler.facts.families import LinearModule
