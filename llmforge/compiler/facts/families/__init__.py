"""Exact facts of a causal language model from its `config.json`, by formulas.

In: the dict of a Hugging Face `config.json`. Out: `ModelFacts`, equal to what the installed
transformers' `AutoModelForCausalLM.from_config` builds (the tests compare the two), without
importing it or torch. One formula serves every family:

    parameters = vocabulary * embedding width + learned positions * hidden + outer modules
               + for every layer: its linear modules, its norms, its experts
               + final norm + the output head, unless it is tied to the input embedding

A linear module has out * in parameters, plus out for a bias. To add a family, add its layout to
`gated.py` (Llama and kin), `plain.py` (GPT and kin) or `experts.py`, and a row to `_ROWS` below;
a family without a row is built on the meta device (`facts/probe.py`).

An absent key gets transformers' default, but layers, hidden, heads, vocabulary and MLP width must
be there: without them transformers would build its default model, here it is a `BadConfig`. Not
done: files, quantized storage, remote code, other heads, checks of keys that change no size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmforge.compiler.facts.families.base import (
    BadConfig,
    Family,
    Keys,
    LinearModule,
    ModelFacts,
    UnknownFamily,
)
from llmforge.compiler.facts.families.experts import EXPERTS
from llmforge.compiler.facts.families.gated import GATED
from llmforge.compiler.facts.families.plain import PLAIN
from llmforge.compiler.facts.families.targets import lora_parameters, match_modules

__all__ = [
    "BadConfig",
    "LinearModule",
    "ModelFacts",
    "UnknownFamily",
    "facts_from_config",
    "known_families",
    "lora_parameters",
    "match_modules",
]

_LAYERS = "model.layers"
_GPT_NAMES = {
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
}
_NEO_NAMES = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}
_EXPERT_NAMES = {"num_experts": "num_local_experts"}

_Row = tuple[str, str, int, bool] | tuple[str, str, int, bool, dict[str, str]]

# model_type: class, list of layers, default context, default tie_word_embeddings, own names of keys
_ROWS: dict[str, _Row] = {
    "llama": ("LlamaForCausalLM", _LAYERS, 2048, False),
    "mistral": ("MistralForCausalLM", _LAYERS, 131072, False),
    "qwen2": ("Qwen2ForCausalLM", _LAYERS, 32768, False),
    "qwen3": ("Qwen3ForCausalLM", _LAYERS, 32768, False),
    "gemma": ("GemmaForCausalLM", _LAYERS, 8192, True),
    "gemma2": ("Gemma2ForCausalLM", _LAYERS, 8192, True),
    "gemma3_text": ("Gemma3ForCausalLM", _LAYERS, 131072, True),
    "phi3": ("Phi3ForCausalLM", _LAYERS, 4096, False),
    "stablelm": ("StableLmForCausalLM", _LAYERS, 4096, False),
    "smollm3": ("SmolLM3ForCausalLM", _LAYERS, 32768, True),
    "olmo2": ("Olmo2ForCausalLM", _LAYERS, 2048, False),
    "opt": ("OPTForCausalLM", "model.decoder.layers", 2048, True),
    "gpt_neo": ("GPTNeoForCausalLM", "transformer.h", 2048, True, _NEO_NAMES),
    "gpt_neox": ("GPTNeoXForCausalLM", "gpt_neox.layers", 2048, False),
    "gptj": ("GPTJForCausalLM", "transformer.h", 2048, False, _GPT_NAMES),
    "gpt2": ("GPT2LMHeadModel", "transformer.h", 1024, True, _GPT_NAMES),
    "phi": ("PhiForCausalLM", _LAYERS, 2048, False),
    "mixtral": ("MixtralForCausalLM", _LAYERS, 131072, False, _EXPERT_NAMES),
    "qwen2_moe": ("Qwen2MoeForCausalLM", _LAYERS, 32768, False),
    "qwen3_moe": ("Qwen3MoeForCausalLM", _LAYERS, 32768, False, _EXPERT_NAMES),
}
_LAYOUTS = GATED | PLAIN | EXPERTS
_FAMILIES = {name: Family(row[0], row[1], _LAYOUTS[name], *row[2:]) for name, row in _ROWS.items()}


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
    keys = Keys(config, family)
    layout = family.layout(keys)
    width = layout.embedding_width or keys.hidden
    embedding = keys.vocabulary * width + layout.learned_positions * keys.hidden
    head = LinearModule("lm_head", keys.vocabulary, width, layout.head_bias, "head")
    body = layout.outer_modules + tuple(
        replace(module, name=f"{family.layers}.{index}.{module.name}")
        for index, block in enumerate(layout.blocks)
        for module in block.modules
    )
    experts = sum(block.experts for block in layout.blocks)
    parameters = embedding + experts + layout.final_norm
    parameters += sum(block.norms for block in layout.blocks)
    parameters += sum(module.parameters for module in (*body, head))
    if keys.tied:  # the weight is the embedding's, a bias is the head's own
        parameters -= keys.vocabulary * width
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
        experts=layout.experts,
        experts_per_token=layout.experts_per_token,
        expert_intermediate=layout.expert_intermediate,
        expert_parameters=experts,
    )
