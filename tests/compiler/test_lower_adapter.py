"""Lowered keywords of adapters and quantized bases, bound to the installed libraries."""

from __future__ import annotations

import inspect

import pytest
from peft import (
    AdaLoraConfig,
    EvaConfig,
    IA3Config,
    LoraConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
)
from transformers import BitsAndBytesConfig

from llmforge.compiler.lower.adapter import steps_of
from llmforge.compose import options

TINY = ("model=folder", "model.path=tiny")
CONFIGS = {
    "lora": LoraConfig,
    "eva": LoraConfig,
    "vera": VeraConfig,
    "adalora": AdaLoraConfig,
    "ia3": IA3Config,
    "prompt": PromptTuningConfig,
    "prefix": PrefixTuningConfig,
}
ROOM = {
    **dict.fromkeys(("pissa", "olora", "loftq", "eva"), ("lora.r=8",)),
    **dict.fromkeys(("prompt", "prefix"), ("collator.max_length=32",)),
}
OPTIONS = [option.name for option in options("lora") if option.name not in ("none", "file")]


def overrides_of(option: str) -> tuple[str, ...]:
    bits = option.partition("_")[0] if option[0].isdigit() else "4bit" if option == "loftq" else ""
    return (
        *TINY, "hardware=h200", f"lora={option}", *ROOM.get(option, ()),
        *((f"quantization={bits}",) if bits else ()),
    )  # fmt: skip


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_known_to_peft(option, compiled):
    plan = compiled(*overrides_of(option))
    lowered = dict(plan.lowered["lora_config"])
    config = CONFIGS[plan.settings["lora"]["kind"]]

    inspect.signature(config).bind(**lowered)
    if "eva_config" in lowered:
        lowered["eva_config"] = EvaConfig(**lowered["eva_config"])
    made = config(**lowered)

    for name, value in lowered.items():
        held = getattr(made, name)
        assert held == (set(value) if isinstance(held, set) else value), name


@pytest.mark.parametrize("option", ["4bit", "4bit_single", "4bit_fp4", "8bit", "8bit_fp16"])
def test_every_quantization_is_known_to_transformers(option, compiled):
    plan = compiled(*TINY, "hardware=h200", "lora=small", f"quantization={option}")
    lowered = plan.lowered["quantization_config"]

    made = BitsAndBytesConfig(**lowered)

    assert made.load_in_4bit is option.startswith("4bit")
    assert made.load_in_8bit is option.startswith("8bit")
    assert {name: lowered.get(name) for name in ("bnb_4bit_quant_type",)} == {
        "bnb_4bit_quant_type": {"4bit": "nf4", "4bit_single": "nf4", "4bit_fp4": "fp4"}.get(option)
    }
    assert lowered.get("bnb_4bit_use_double_quant") is {
        "4bit": True, "4bit_single": False, "4bit_fp4": True
    }.get(option)  # fmt: skip
    assert lowered.get("llm_int8_has_fp16_weight") is {"8bit": False, "8bit_fp16": True}.get(option)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (("lora=small", "lora.init=gaussian"), {"init_lora_weights": "gaussian"}),
        (("lora=small",), {"init_lora_weights": True}),
        (("lora=loftq", "lora.r=8", "quantization=4bit"), {"init_lora_weights": True}),
        (("lora=pissa", "lora.r=8"), {"init_lora_weights": "pissa"}),
        (("lora=eva", "lora.r=8"), {"eva_config": {"rho": 1.0, "tau": 0.99}}),
        (("lora=small", "lora.bias=all"), {"bias": "all"}),
        (("lora=dora",), {"use_dora": True}),
        (("lora=rslora",), {"use_rslora": True, "r": 64}),
        (("lora=vera", "seed=7"), {"projection_prng_key": 7, "d_initial": 0.1}),
        (("lora=vera", "lora.save_projection=false"), {"save_projection": False}),
        (
            ("lora=adalora", "trainer.epochs=null", "trainer.max_steps=400"),
            {"total_step": 400, "tinit": 40, "tfinal": 80, "deltaT": 10, "init_r": 12},
        ),
        (
            ("lora=adalora", "trainer.epochs=null", "trainer.max_steps=400", "lora.warmup=5"),
            {"tinit": 5, "beta1": 0.85, "beta2": 0.85, "orth_reg_weight": 0.5},
        ),
        (
            ("lora=ia3",),
            {"feedforward_modules": ["down_proj"],
             "target_modules": ["k_proj", "v_proj", "down_proj"]},
        ),
        (
            ("lora=prompt", "lora.init=uniform", "collator.max_length=32"),
            {"prompt_tuning_init": "RANDOM", "num_virtual_tokens": 20},
        ),
        (("lora=prefix", "lora.init=zero", "collator.max_length=32"), {"init_weights": "zero"}),
        (("lora=small", "lora.targets=role:mlp"),
         {"target_modules": ["gate_proj", "up_proj", "down_proj"]}),
        (("lora=small", "lora.modules_to_save=[lm_head]"), {"modules_to_save": ["lm_head"]}),
    ],
)  # fmt: skip
def test_fields_become_keywords(overrides, expected, compiled):
    lowered = compiled(*TINY, "hardware=h200", *overrides).lowered["lora_config"]

    assert {name: lowered[name] for name in expected} == expected


@pytest.mark.parametrize(("tied", "expected"), [("true", True), ("false", None)])
def test_a_tied_embedding_is_kept_tied(tied, expected, compiled):
    plan = compiled(
        "hardware=cpu", f"model.tie_embeddings={tied}", "lora=small",
        "lora.modules_to_save=[embed_tokens]",
    )  # fmt: skip

    assert plan.lowered["lora_config"].get("ensure_weight_tying") is expected


def test_every_keyword_says_which_setting_it_comes_from(compiled):
    plan = compiled(*TINY, "hardware=h200", "lora=ia3")

    reads = {
        name: plan.origins.chain(f"lowered.lora_config.{name}")[-1].reads
        for name in ("feedforward_modules", "modules_to_save")
    }
    assert reads["modules_to_save"] == ("lora.modules_to_save",)


@pytest.mark.parametrize(
    ("value", "steps", "expected"),
    [("10%", 200, 20), (7, 200, 7), ("10%", None, None), (7, None, 7)],
)
def test_shares_of_a_run(value, steps, expected):
    assert steps_of(value, steps) == expected


def test_the_plan_states_what_is_hit(compiled):
    plan = compiled(*TINY, "hardware=h200", "lora=small", "lora.targets=role:attention")

    assert plan.estimate["adapted"] == {"q_proj": 2, "k_proj": 2, "v_proj": 2, "o_proj": 2}
    assert plan.estimate["adapted_modules"] == 8
    trained = plan.estimate["trainable_parameters"]
    assert plan.estimate["trainable_share"] == trained / (
        plan.estimate["total_parameters"] + trained
    )
