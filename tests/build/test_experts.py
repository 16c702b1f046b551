"""Adapters on mixtures of experts: what the plan says is hit is what PEFT wraps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForCausalLM

from llmforge.build.adapter import trainable_share, wrap_ia3, wrap_lora
from llmforge.compiler.passes import compile_plan

SIZES = {
    "num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 64, "vocab_size": 288,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "mixtral": {"num_local_experts": 4},
    "qwen2_moe": {
        "num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 32,
    },
    "qwen3_moe": {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16,
                  "head_dim": 8},
}  # fmt: skip


@pytest.fixture(scope="module")
def mixture(tmp_path_factory, llama_like: Path) -> Callable[[str], Path]:
    """`mixture("mixtral")`: a folder with a tiny random model of the family."""
    from transformers import AutoTokenizer

    made: dict[str, Path] = {}

    def make(family: str) -> Path:
        if family not in made:
            torch.manual_seed(0)
            config = AutoConfig.for_model(family, **SIZES, **FAMILIES[family])
            made[family] = tmp_path_factory.mktemp(family)
            AutoModelForCausalLM.from_config(config).save_pretrained(made[family])
            AutoTokenizer.from_pretrained(llama_like).save_pretrained(made[family])
        return made[family]

    return make


def compiled(folder: Path, *overrides: str) -> Any:
    return compile_plan(["model=folder", f"model.path={folder}", "hardware=cpu", *overrides])


def wrapped(plan: Any, folder: Path, wrap: Callable[..., Any] = wrap_lora) -> tuple[Any, set[str]]:
    model = wrap(plan, AutoModelForCausalLM.from_pretrained(folder))
    base = model.get_base_model()
    return model, {n for n, m in base.named_modules() if isinstance(m, BaseTunerLayer)}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("targets", ["all-linear", "role:attention"])
def test_what_is_hit_is_what_the_plan_said(family, targets, mixture, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = mixture(family)
    plan = compiled(folder, "lora=small", f"lora.targets={targets}")

    model, hit = wrapped(plan, folder)

    assert len(hit) == plan.estimate["adapted_modules"]
    share = trainable_share(model)
    assert share["trainable"] == plan.estimate["trainable_parameters"]
    # neither the stacked experts nor what deals tokens out to them
    assert not [name for name in hit if name.endswith(("experts", "gate"))]
    shared = {name for name in hit if "shared_expert." in name}
    assert bool(shared) is (family == "qwen2_moe" and targets == "all-linear")
    notes = [finding["code"] for finding in plan.findings]
    assert ("LF621" in notes) is (targets == "all-linear")


def test_a_router_is_adapted_when_it_is_named(mixture, tmp_path: Path, monkeypatch):
    """The gate of the experts that every token goes through is a linear module."""
    monkeypatch.chdir(tmp_path)
    folder = mixture("qwen2_moe")
    plan = compiled(folder, "lora=small", "lora.targets=[shared_expert_gate]")

    _, hit = wrapped(plan, folder)

    assert hit == {f"model.layers.{layer}.mlp.shared_expert_gate" for layer in range(2)}


def test_the_share_that_stays_frozen_is_told(mixture, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = mixture("mixtral")
    plan = compiled(folder, "lora=small")

    (told,) = (finding for finding in plan.findings if finding["code"] == "LF621")

    experts = sum(
        weight.numel()
        for name, weight in AutoModelForCausalLM.from_pretrained(folder).named_parameters()
        if "experts" in name
    )
    share = experts / plan.facts["model"]["parameters"]
    assert told["message"].endswith(f"frozen: {share:.0%} of the weights")
    assert "4 experts" in told["message"]


def test_other_kinds_take_names_as_well(mixture, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = mixture("qwen2_moe")
    plan = compiled(folder, "lora=ia3", "lora.targets=all-linear", "lora.feedforward=role:down")

    model, hit = wrapped(plan, folder, wrap_ia3)

    assert len(hit) == plan.estimate["adapted_modules"]
    assert trainable_share(model)["trainable"] == plan.estimate["trainable_parameters"]
