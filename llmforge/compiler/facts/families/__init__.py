"""Exact facts of a causal language model from its `config.json`, by formulas.

In: the dict of a Hugging Face `config.json`. Out: `ModelFacts`, equal to what the installed
transformers' `AutoModelForCausalLM.from_config` builds (the tests compare the two), without
importing it or torch. One formula serves every family:

    parameters = vocabulary * embedding width + learned positions * hidden + outer modules
               + for every layer: its linear modules, its norms, its experts
               + final norm + the output head, unless it is tied to the input embedding

A linear module has out * in parameters, plus out for a bias. To add a family, add its layout to
`gated.py` (Llama and kin), `plain.py` (GPT and kin) or `experts.py`, and a row to `_ROWS` below;
`vision.py` has the one family that is more than a language model. A family without a row is built
on the meta device (`facts/probe.py`).

An absent key gets transformers' default, but layers, hidden, heads, vocabulary and MLP width must
be there: without them transformers would build its default model, here it is a `BadConfig`. Not
done: files, quantized storage, remote code, other heads, checks of keys that change no size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmforge.compiler.facts.families.base import (
    ATTENTIONS,
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
from llmforge.compiler.facts.families.vision import gemma3

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

_GPT_NAMES = {
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
}
_NEO_NAMES = {"num_hidden_layers": "num_layers", "num_attention_heads": "num_heads"}
_EXPERT_NAMES = {"num_experts": "num_local_experts"}

_LAYOUTS = GATED | PLAIN | EXPERTS


def _row(
    name: str,
    architecture: str,
    context: int,
    tied: bool,
    layers: str = "model.layers",
    own_names: Mapping[str, str] | None = None,
    without: tuple[str, ...] = (),
) -> tuple[str, Family]:
    return name, Family(architecture, layers, _LAYOUTS[name], context, tied, own_names, without)


# model_type, class, default context, default tie_word_embeddings, what is not as in Llama
_ROWS = (
    _row("llama", "LlamaForCausalLM", 2048, False),
    _row("mistral", "MistralForCausalLM", 131072, False),
    _row("qwen2", "Qwen2ForCausalLM", 32768, False),
    _row("qwen3", "Qwen3ForCausalLM", 32768, False),
    _row("gemma", "GemmaForCausalLM", 8192, True),
    _row("gemma2", "Gemma2ForCausalLM", 8192, True, without=("sdpa",)),
    _row("gemma3_text", "Gemma3ForCausalLM", 131072, True),
    _row("phi3", "Phi3ForCausalLM", 4096, False),
    _row("stablelm", "StableLmForCausalLM", 4096, False, without=("flex_attention",)),
    _row("smollm3", "SmolLM3ForCausalLM", 32768, True),
    _row("olmo2", "Olmo2ForCausalLM", 2048, False),
    _row("opt", "OPTForCausalLM", 2048, True, "model.decoder.layers"),
    _row(
        *("gpt_neo", "GPTNeoForCausalLM", 2048, True, "transformer.h", _NEO_NAMES),
        without=("sdpa", "flex_attention"),
    ),
    _row("gpt_neox", "GPTNeoXForCausalLM", 2048, False, "gpt_neox.layers"),
    _row(
        *("gptj", "GPTJForCausalLM", 2048, False, "transformer.h", _GPT_NAMES),
        without=("sdpa", "flex_attention"),
    ),
    _row(
        *("gpt2", "GPT2LMHeadModel", 1024, True, "transformer.h", _GPT_NAMES),
        without=("flex_attention",),
    ),
    _row("phi", "PhiForCausalLM", 2048, False),
    _row("mixtral", "MixtralForCausalLM", 131072, False, own_names=_EXPERT_NAMES),
    _row("qwen2_moe", "Qwen2MoeForCausalLM", 32768, False),
    _row("qwen3_moe", "Qwen3MoeForCausalLM", 32768, False, own_names=_EXPERT_NAMES),
)
_FAMILIES = dict(_ROWS)


def known_families() -> tuple[str, ...]:
    """The values of `model_type` that have formulas, of language models alone."""
    return tuple(_FAMILIES)


def facts_from_config(config: Mapping[str, Any]) -> ModelFacts:
    """Raises `UnknownFamily` or `BadConfig`, both a `ValueError`."""
    name = config.get("model_type")
    if not isinstance(name, str):
        raise BadConfig("model_type", f"must be a string, got {name!r}")
    if name == "gemma3":
        return gemma3(config, facts_from_config)
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
        attentions=tuple(kind for kind in ATTENTIONS if kind not in family.without),
        experts=layout.experts,
        experts_per_token=layout.experts_per_token,
        expert_intermediate=layout.expert_intermediate,
        expert_parameters=experts,
    )
