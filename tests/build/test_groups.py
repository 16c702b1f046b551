"""Parameter groups of built models: every trained weight in one, with its rate and decay."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM, Trainer

from llmforge.build.groups import parameter_groups

USUAL = {
    "lr": 1.0,
    "weight_decay": 0.1,
    "decay_norms": False,
    "lora_plus_ratio": None,
    "embedding_lr": None,
    "layer_decay": None,
    "matrices_apart": False,
}
SMALL: dict[str, dict[str, Any]] = {
    "llama": {
        "num_hidden_layers": 2, "hidden_size": 16, "intermediate_size": 32, "vocab_size": 50,
        "num_attention_heads": 2, "num_key_value_heads": 2, "tie_word_embeddings": False,
    },
    "gpt2": {"n_layer": 2, "n_embd": 16, "n_head": 2, "vocab_size": 50, "n_positions": 32},
    "opt": {
        "num_hidden_layers": 2, "hidden_size": 16, "ffn_dim": 32, "vocab_size": 50,
        "num_attention_heads": 2, "word_embed_proj_dim": 16, "max_position_embeddings": 32,
    },
}  # fmt: skip


def built(family: str, **changes: Any) -> Any:
    config = AutoConfig.for_model(family, **{**SMALL[family], **changes})
    return AutoModelForCausalLM.from_config(config)


def adapted(**changes: Any) -> Any:
    settings = {"r": 2, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **changes}
    return get_peft_model(built("llama"), LoraConfig(**settings))


def groups_of(model: Any, **changes: Any) -> list[dict[str, Any]]:
    decaying = Trainer.get_decay_parameter_names(None, model)
    return parameter_groups(model, decaying, {**USUAL, **changes})


def told(model: Any, groups: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Name of each weight -> its rate and decay."""
    names = {id(weight): name for name, weight in model.named_parameters()}
    return {
        names[id(weight)]: (group.get("lr", 1.0), group["weight_decay"])
        for group in groups
        for weight in group["params"]
    }


WAYS = [
    {},
    {"decay_norms": True},
    {"embedding_lr": 0.5},
    {"layer_decay": 0.5},
    {"layer_decay": 0.5, "embedding_lr": 0.5},
    {"matrices_apart": True, "embedding_lr": 1.0},
]


@pytest.mark.parametrize("family", SMALL)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_trained_weight_is_in_exactly_one_group(family, way):
    model = built(family)

    groups = groups_of(model, **way)

    grouped = [id(weight) for group in groups for weight in group["params"]]
    assert len(grouped) == len(set(grouped))
    assert set(grouped) == {id(weight) for weight in model.parameters()}
    assert all(group["params"] for group in groups)


def test_frozen_weights_are_in_none():
    model = adapted()

    found = told(model, groups_of(model, lora_plus_ratio=16.0))

    assert found
    assert set(found) == {n for n, weight in model.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("family", SMALL)
def test_norms_and_biases_do_not_decay(family):
    model = built(family)

    found = told(model, groups_of(model))

    assert {decay for name, (_, decay) in found.items() if name.endswith("bias")} <= {0.0}
    assert {decay for name, (_, decay) in found.items() if "norm" in name or "ln_" in name} == {0.0}
    matrices = {n for n, weight in model.named_parameters() if weight.ndim == 2}
    assert {found[name] for name in matrices} == {(1.0, 0.1)}
    assert set(told(model, groups_of(model, decay_norms=True)).values()) == {(1.0, 0.1)}


def test_b_matrices_learn_faster():
    model = adapted()

    found = told(model, groups_of(model, lora_plus_ratio=16.0))

    assert {rate for name, (rate, _) in found.items() if ".lora_B." in name} == {16.0}
    assert {rate for name, (rate, _) in found.items() if ".lora_A." in name} == {1.0}


def test_embeddings_have_a_rate_of_their_own():
    model = built("gpt2")

    found = told(model, groups_of(model, embedding_lr=0.25))

    slow = {name for name, (rate, _) in found.items() if rate == 0.25}
    assert slow == {"transformer.wte.weight", "transformer.wpe.weight"}  # the tied head as well


def test_embeddings_that_an_adapter_trains_whole():
    model = adapted(target_modules=["q_proj"], modules_to_save=["embed_tokens"])

    found = told(model, groups_of(model, embedding_lr=0.25))

    slow = {name for name, (rate, _) in found.items() if rate == 0.25}
    assert len(slow) == 1
    assert "embed_tokens.modules_to_save" in slow.pop()


@pytest.mark.parametrize(
    ("family", "rates"),
    [
        (
            "llama",
            {
                "lm_head.weight": 1.0,
                "model.norm.weight": 1.0,
                "model.layers.1.mlp.up_proj.weight": 0.5,
                "model.layers.0.mlp.up_proj.weight": 0.25,
                "model.embed_tokens.weight": 0.125,
            },
        ),
        (
            "gpt2",
            {
                "transformer.ln_f.weight": 1.0,
                "transformer.h.1.mlp.c_fc.weight": 0.5,
                "transformer.h.0.mlp.c_fc.bias": 0.25,
                "transformer.wte.weight": 0.125,
                "transformer.wpe.weight": 0.125,
            },
        ),
    ],
)
def test_lower_layers_learn_slower(family, rates):
    model = built(family)

    found = told(model, groups_of(model, layer_decay=0.5))

    assert {name: found[name][0] for name in rates} == rates


def test_layers_are_found_under_an_adapter():
    model = adapted()

    found = told(model, groups_of(model, layer_decay=0.5, lora_plus_ratio=4.0))

    assert {rate for name, (rate, _) in found.items() if ".1." in name and "lora_B" in name} == {
        2.0
    }
    assert {rate for name, (rate, _) in found.items() if ".0." in name and "lora_A" in name} == {
        0.25
    }


@pytest.mark.parametrize(("family", "others"), [("llama", "lm_head.weight"), ("gpt2", None)])
def test_matrices_of_the_layers_stand_apart(family, others):
    model = built(family)
    names = {id(weight): name for name, weight in model.named_parameters()}

    groups = groups_of(model, matrices_apart=True)

    found = {
        flag: {names[id(w)] for group in groups if group["matrix"] is flag for w in group["params"]}
        for flag in (True, False)
    }
    assert all(weight.ndim == 2 for g in groups if g["matrix"] for weight in g["params"])
    layers = {
        n for n, w in model.named_parameters() if w.ndim == 2 and (".layers." in n or ".h." in n)
    }
    assert found[True] == layers
    assert others is None or others in found[False]


@pytest.mark.parametrize("key", ["lora_plus_ratio", "embedding_lr"])
def test_a_rate_for_weights_that_are_not_trained(key):
    model = built("llama") if key == "lora_plus_ratio" else adapted()

    with pytest.raises(ValueError, match=f"optimizer.{key} is given, but no such weight"):
        groups_of(model, **{key: 2.0})


def test_a_model_without_layers():
    model = torch.nn.Linear(2, 2)
    model.config = AutoConfig.for_model("llama", **SMALL["llama"])

    with pytest.raises(ValueError, match="needs a model with a list of 2 layers"):
        parameter_groups(model, [], {**USUAL, "layer_decay": 0.5})
