"""Counts of trained parameters, equal to those of the model that PEFT builds."""

from __future__ import annotations

import json
from typing import Any

import pytest
from omegaconf import OmegaConf
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from transformers import AutoConfig, AutoModelForCausalLM

from llmforge.compiler.context import Context, Facts
from llmforge.compiler.facts.families import facts_from_config
from llmforge.compiler.facts.trained import trained
from llmforge.compiler.lower.adapter import adapter
from llmforge.compose import compose, config_root
from llmforge.registry import component
from llmforge.schema.adapter import AdapterSpec
from llmforge.schema.typed import typed

GPT = {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 96, "n_positions": 64}
GATED = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 96,
         "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": GATED | {"tie_word_embeddings": True},
    "mistral": GATED,
    "qwen2": GATED,
    "qwen3": GATED | {"head_dim": 16},
    "gemma": GATED | {"head_dim": 16},
    "phi3": GATED | {"pad_token_id": 0},
    "gpt2": GPT,
    "gptj": GPT | {"rotary_dim": 4},
    "gpt_neo": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "vocab_size": 96,
                "attention_types": [[["global"], 2]], "max_position_embeddings": 64},
    "gpt_neox": {k: v for k, v in GATED.items() if k != "num_key_value_heads"},
    "opt": {"num_hidden_layers": 2, "hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4,
            "vocab_size": 96, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
}  # fmt: skip
CONFIGS = {
    "lora": LoraConfig,
    "eva": LoraConfig,
    "vera": VeraConfig,
    "adalora": AdaLoraConfig,
    "ia3": IA3Config,
    "prompt": PromptTuningConfig,
    "prefix": PrefixTuningConfig,
}
KINDS = [
    ("small", {}),
    ("small", {"targets": "role:attention"}),
    ("small", {"targets": "role:query+value", "dora": True}),
    ("small", {"targets": ".*[.]1[.].*(q_proj|c_attn|query_key_value|qkv_proj)"}),
    ("small", {"targets": "role:down", "bias": "lora_only"}),
    ("small", {"bias": "all"}),
    ("4bit_s", {}),
    ("8bit_xl", {}),
    ("rslora", {}),
    ("eva", {}),
    ("vera", {}),
    ("vera", {"bias": "all", "targets": "role:mlp"}),
    ("adalora", {}),
    ("adalora", {"bias": "lora_only", "targets": "role:output+up"}),
    ("ia3", {}),
    ("ia3", {"targets": "role:attention+mlp", "feedforward": "role:mlp"}),
    ("prompt", {}),
    ("prefix", {}),
]


def spec_of(option: str, **changes: Any) -> AdapterSpec:
    values = {}
    for name in ("small", option):
        file = OmegaConf.to_container(OmegaConf.load(config_root() / "lora" / f"{name}.yaml"))
        assert isinstance(file, dict)
        values = {**(values if "defaults" in file else {}), **file}
    values.pop("defaults", None)
    spec = component("lora", values["kind"]).spec
    found = spec.model_validate_json(json.dumps(values | changes))
    assert isinstance(found, AdapterSpec)
    return found


@pytest.fixture(scope="module")
def context_of():
    """A context of shipped settings with another adapter."""
    shipped = typed(compose(["hardware=cpu"]).values)

    def make(spec: AdapterSpec, family: str) -> Context:
        model = facts_from_config({"model_type": family, **FAMILIES[family]})
        changed = shipped.model_copy(update={"lora": spec})
        return Context(changed, Facts(model=model, steps=100))

    return make


def built(family: str) -> Any:
    # not on the meta device, where PEFT forgets that AdaLoRA's `ranknum` is not trained
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family]))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(("option", "changes"), KINDS, ids=str)
def test_every_kind_family_and_target(family, option, changes, context_of):
    spec = spec_of(option, **changes)
    context = context_of(spec, family)
    lowered = {name: value for name, (value, _) in adapter(context).items()}
    lowered.pop("eva_config", None)

    model = get_peft_model(built(family), CONFIGS[spec.kind](**lowered))

    found = trained(context.facts.model, spec)
    assert found is not None
    assert found.trainable == model.get_nb_trainable_parameters()[0]
    assert found.total == sum(weight.numel() for weight in model.parameters())


@pytest.mark.parametrize("family", ["llama", "mistral", "gpt2", "gpt_neox", "opt"])
@pytest.mark.parametrize("whole", ["embedding", "head", "both"])
def test_modules_trained_whole(family, whole, context_of):
    """Of a tied model one copy for both; Llama, GPT-2 and OPT are tied here."""
    table = {"gpt2": "wte", "gpt_neox": "embed_in"}.get(family, "embed_tokens")
    names = {"embedding": [table], "head": ["lm_head"], "both": [table, "lm_head"]}[whole]
    spec = spec_of("small", modules_to_save=names)
    context = context_of(spec, family)
    lowered = {name: value for name, (value, _) in adapter(context).items()}

    model = get_peft_model(built(family), LoraConfig(**lowered))

    assert trained(context.facts.model, spec).trainable == model.get_nb_trainable_parameters()[0]


@pytest.mark.parametrize("changes", [{"modules_to_save": ["norm"]},
                                     {"modules_to_save": ["lm_head"], "bias": "all"}])  # fmt: skip
def test_what_only_the_build_knows_is_not_foretold(changes):
    model = facts_from_config({"model_type": "mistral", **GATED})

    assert trained(model, spec_of("small", **changes)) is None


def test_full_training():
    model = facts_from_config({"model_type": "mistral", **GATED})

    found = trained(model, spec_of("none"))

    assert (found.trainable, found.share) == (model.parameters, 1.0)
