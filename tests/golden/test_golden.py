"""Resolved plans of a few compositions, checked in: a change of any value shows in the review.

`LLMFORGE_UPDATE_GOLDEN=1 pytest tests/golden` writes them anew; read the difference. The hardware
is fixed, and digests and installed versions are left out, so the files are the same everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmforge.render import shown

FOLDER = Path(__file__).parent

PLANS = {
    "default": ("hardware=cpu",),
    "smoke": ("experiment=smoke", "hardware=cpu"),
    "gsm8k": (
        "experiment=gsm8k", "data.train=qa.jsonl", "data.evaluation=held_out.jsonl", "hardware=cpu",
    ),
    "qlora_rtx4090": ("experiment=qlora", "model.path=tiny", "hardware=rtx4090"),
    "finetune_h200": (
        "model=folder", "model.path=tiny", "trainer=finetune", "optimizer=adamw_finetune",
        "checkpoint=best", "hardware=h200",
    ),
    "zero3_8xh100": (
        "model=folder", "model.path=tiny", "trainer=finetune", "optimizer=adamw_finetune",
        "deepspeed=stage3", "launch=torchrun", "hardware=h100_80gb", "hardware.count=8",
    ),
    # recipes that others published; what is not as published stands in the experiment's comment
    "xllm_qlora": ("experiment=xllm_qlora", "hardware=a100_80gb"),
    "xllm_recommended": ("experiment=xllm_recommended", "hardware=a100_80gb"),
    "xllm_production": ("experiment=xllm_production", "hardware=a100_80gb", "hardware.count=8"),
    "superduper_qlora": ("experiment=superduper_qlora", "hardware=a100_80gb"),
    "superduper_2gpus": (
        "experiment=superduper_qlora", "launch=torchrun", "hardware=a100_80gb", "hardware.count=2",
    ),
    "superduper_deepspeed": (
        "experiment=superduper_deepspeed", "hardware=a100_80gb", "hardware.count=2",
    ),
}  # fmt: skip


def flat(plan) -> str:
    """`key = value` of what was decided: settings, estimate, lowered keywords."""
    keys = [(key, value) for key, value in plan.leaves() if not key.startswith("facts.")]
    return "".join(f"{key} = {shown(value, 200)}\n" for key, value in keys)


@pytest.mark.parametrize("name", PLANS)
def test_plan(name, compiled):
    path = FOLDER / f"{name}.txt"
    text = flat(compiled(*PLANS[name]))
    if os.environ.get("LLMFORGE_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")

    assert path.read_text(encoding="utf-8") == text


def test_no_file_without_a_plan():
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(PLANS)


@pytest.mark.parametrize("name", PLANS)
def test_nothing_of_this_machine_is_in_it(name):
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")

    assert str(Path.home()) not in text
    assert str(FOLDER.parents[1]) not in text
    assert "/tmp" not in text


PUBLISHED = {
    # 2d, 2e and 3c of the inventory of seeds: what each recipe says in so many numbers
    "xllm_qlora": {
        "model.id": "mistralai/Mistral-7B-v0.1", "lora.r": 8, "lora.alpha": 32, "lora.dropout": 0.1,
        "lora.targets": "all-linear", "quantization.bits": 4, "quantization.quant_type": "nf4",
        "quantization.double_quant": True, "collator.max_length": 2048, "schedule.warmup": 1000,
        "schedule.kind": "linear", "trainer.micro_batch": 2, "trainer.accumulation": 1,
        "trainer.epochs": 1, "trainer.log_every": 10, "optimizer.lr": 2e-4,
        "optimizer.weight_decay": 0.001, "optimizer.clip_norm": 1.0, "optimizer.paged": True,
        "trainer.gradient_checkpointing": False,
        "optimizer.kind": "adamw_8bit", "checkpoint.every": 100, "checkpoint.keep": 1, "seed": 42,
    },
    "xllm_recommended": {
        "schedule.warmup": 1000, "trainer.max_steps": 10000, "trainer.log_every": 1,
        "checkpoint.every": 1000, "trainer.micro_batch": 2, "trainer.accumulation": 2,
        "collator.max_length": 2048, "tokenizer.padding_side": "right", "quantization.bits": 4,
        "trainer.gradient_checkpointing": True, "model.id": "meta-llama/Llama-2-7b-hf",
        "precision.norms": "float32", "lora.kind": "lora",
    },
    "xllm_production": {
        "launch.processes": 8, "deepspeed.stage": 2, "deepspeed.offload_optimizer": True,
        "deepspeed.bucket_size": 200_000_000, "deepspeed.overlap_communication": True,
        "deepspeed.contiguous_gradients": True, "trainer.micro_batch": 8, "schedule.warmup": 1000,
        "trainer.gradient_checkpointing": True, "quantization.bits": 4, "model.attention": "sdpa",
        "lora.targets": "all-linear", "optimizer.kind": "adamw", "optimizer.lr": 2e-4,
        "optimizer.weight_decay": 0.001, "trainer.global_batch": 64,
    },
    "superduper_qlora": {
        "trainer.epochs": 3, "checkpoint.keep": 3, "trainer.log_every": 10, "evaluation.every": 100,
        "checkpoint.every": 100, "trainer.micro_batch": 1, "evaluation.micro_batch": 1,
        "trainer.accumulation": 2, "collator.max_length": 512, "lora.r": 8, "lora.alpha": 16,
        "lora.dropout": 0.05, "lora.targets": "all-linear", "lora.bias": "none",
        "quantization.bits": 4, "optimizer.lr": 5e-5, "optimizer.weight_decay": 0.0,
        "optimizer.betas": [0.9, 0.999], "optimizer.clip_norm": 1.0, "schedule.warmup": 0,
        "precision.compute": "float32",
    },
    "superduper_2gpus": {"launch.processes": 2, "lora.kind": "lora", "quantization.bits": 4},
    "superduper_deepspeed": {
        "deepspeed.stage": 2, "lora.kind": "lora", "quantization.bits": 4, "launch.processes": 2,
    },
}  # fmt: skip


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_numbers(name, compiled):
    settings = dict(compiled(*PLANS[name]).leaves())

    assert {key: settings.get(key) for key in PUBLISHED[name]} == PUBLISHED[name]
