"""Targets: the modules a role, a name or a pattern hits, equal to what PEFT then wraps."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM

from llmforge.compiler.facts.families import ModelFacts, facts_from_config
from llmforge.compiler.facts.others import other_modules
from llmforge.compiler.facts.targets import (
    ROLES,
    by_ending,
    others_hit,
    peft_targets,
    resolve,
    roles_asked,
    saved_modules,
    trains_tied_embedding,
)

_GATED = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 96,
          "num_attention_heads": 4, "num_key_value_heads": 2}  # fmt: skip
_HEADS = _GATED | {"head_dim": 8}
_MOE = {"num_local_experts": 4, "num_experts_per_tok": 2}
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": _GATED,
    "mistral": _GATED,
    "mixtral": _GATED | _MOE,
    "qwen2": _GATED,
    "qwen3": _HEADS,
    "gemma": _HEADS,
    "gemma2": _HEADS,
    "gemma3_text": _HEADS,
    "olmo2": _GATED,
    "smollm3": _GATED | {"pad_token_id": 0},
    "phi3": _GATED | {"pad_token_id": 0},
    "phi": _GATED,
    "gpt2": {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 96, "n_positions": 64},
    "gptj": {"n_layer": 2, "n_embd": 32, "n_head": 4, "vocab_size": 96, "n_positions": 64,
             "rotary_dim": 4},
    "gpt_neo": {"num_layers": 2, "hidden_size": 32, "num_heads": 4, "vocab_size": 96,
                "attention_types": [[["global"], 2]], "max_position_embeddings": 64},
    "gpt_neox": {k: v for k, v in _GATED.items() if k != "num_key_value_heads"},
    "opt": {"num_hidden_layers": 2, "hidden_size": 32, "ffn_dim": 64, "num_attention_heads": 4,
            "vocab_size": 96, "word_embed_proj_dim": 32, "max_position_embeddings": 64},
}  # fmt: skip

FUSED = {
    "gpt2": {"c_attn": 2},
    "gpt_neox": {"query_key_value": 2},
    "phi3": {"qkv_proj": 2},
}
"""Where queries and values are one module."""


def facts(family: str, **changes: Any) -> ModelFacts:
    return facts_from_config({"model_type": family, **CONFIGS[family], **changes})


def built(family: str) -> Any:
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **CONFIGS[family]))


@pytest.mark.parametrize("family", CONFIGS)
def test_queries_and_values_of_every_family(family):
    found = by_ending(resolve(facts(family), "role:query+value"))

    assert found == FUSED.get(family, {"q_proj": 2, "v_proj": 2})


@pytest.mark.parametrize("family", CONFIGS)
def test_attention_and_mlp_are_all_linear(family):
    """Each linear module has one of the two, and a part in it; experts are no linear modules."""
    model = facts(family)
    everything = set(resolve(model, "all-linear"))

    assert set(resolve(model, "role:attention+mlp")) == everything
    parts = "role:query+key+value+output+gate+up+down"
    assert set(resolve(model, parts)) == everything


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize(
    "targets", ["role:query+value", "role:attention", "role:mlp", "role:output", "role:down"]
)
def test_peft_wraps_the_modules_of_a_role(family, targets):
    model = facts(family)
    wanted = {module.name for module in resolve(model, targets)}
    if not wanted:
        pytest.skip("a mixture of experts has no linear MLP")

    wrapped = get_peft_model(
        built(family), LoraConfig(target_modules=peft_targets(model, targets), r=2)
    )

    hit = {n for n, m in wrapped.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    assert hit == wanted


@pytest.mark.parametrize("family", CONFIGS)
def test_other_modules_are_those_that_are_built(family):
    """Norms, embeddings and blocks: all of them, under their names."""
    model, truth = facts(family), built(family)
    known = other_modules(model)

    weighted = {
        name for name, module in truth.named_modules() if [*module.parameters(recurse=False)]
    }
    linear = {module.name for module in model.linear_modules}
    stored = {n for n in weighted if n.endswith(("experts", "mlp.gate"))}  # in three dimensions
    assert {n for n, kind in known.items() if kind != "block"} == weighted - linear - stored
    assert set(known) <= {name for name, _ in truth.named_modules()}
    table = truth.get_input_embeddings()
    assert [n for n, kind in known.items() if kind == "embedding"] == [
        name for name, module in truth.named_modules() if module is table
    ]


def test_names_are_as_short_as_can_be():
    """A name that two blocks share is told apart by the block's."""
    assert peft_targets(facts("gpt2"), "role:output") == ["attn.c_proj"]
    assert peft_targets(facts("gpt2"), "role:down") == ["mlp.c_proj"]
    assert peft_targets(facts("llama"), "role:attention") == [
        "q_proj", "k_proj", "v_proj", "o_proj",
    ]  # fmt: skip


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj"], ".*fc1", "role:attention"])
def test_without_facts_nothing_is_changed(targets):
    assert peft_targets(None, targets) == targets


@settings(max_examples=50, deadline=None)
@given(
    st.sampled_from(sorted(CONFIGS)),
    st.sets(st.sampled_from(ROLES), min_size=1, max_size=4),
)
def test_the_names_of_any_roles_hit_just_their_modules(family, roles):
    model = facts(family)
    target = "role:" + "+".join(sorted(roles))

    names = peft_targets(model, target)

    assert set(resolve(model, names)) == set(resolve(model, target))
    assert others_hit(model, names) == {}


@pytest.mark.parametrize(
    ("targets", "roles"),
    [
        ("role:attention", ("attention",)),
        ("role:query+value", ("query", "value")),
        ("all-linear", None),
        (["role:mlp"], None),
        (".*role:.*", None),
    ],
)
def test_what_a_role_is(targets, roles):
    assert roles_asked(targets) == roles


@pytest.mark.parametrize(
    ("targets", "kinds"),
    [
        ("all-linear", set()),
        (["q_proj", "norm"], {"norm"}),
        (["embed_tokens"], {"embedding"}),
        (".*", {"norm", "embedding", "block"}),
        (r".*layers\.0.*", {"norm", "block"}),
        (r".*_proj", set()),
    ],
)
def test_what_else_a_target_hits(targets, kinds):
    assert set(others_hit(facts("llama"), targets).values()) == kinds


def test_modules_to_save_are_named_by_the_ends_of_names():
    model = facts("llama")

    assert saved_modules(model, ["head"]) == ("lm_head",)
    assert len(saved_modules(model, ["norm"])) == 5  # two in each layer and the last
    assert saved_modules(model, []) == ()


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["embed_tokens", "lm_head"])
def test_a_tied_embedding_is_known_by_either_name(tied, name):
    model = facts("llama", tie_word_embeddings=tied)

    assert trains_tied_embedding(model, [name]) is tied
    assert not trains_tied_embedding(model, ["model.norm"])
