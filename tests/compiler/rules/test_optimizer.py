"""LF310 to LF317 beyond their gallery pages: who is refused, with which hint, and who is not."""

from __future__ import annotations

import dataclasses

import pytest

from llmforge.compiler.context import Context
from llmforge.compiler.rules.optimizer import (
    clipping_impossible,
    group_impossible,
    muon_over_shards,
    optimizer_missing,
    paged_without_cuda,
    schedule_does_not_fit,
    schedule_not_followed,
)

RULES = (
    clipping_impossible, group_impossible, muon_over_shards, optimizer_missing,
    paged_without_cuda, schedule_does_not_fit, schedule_not_followed,
)  # fmt: skip
EIGHT = ("hardware=h200", "hardware.count=8", "launch=torchrun")
TINY = ("model=folder", "model.path=tiny")
LONG = {"trainer.epochs": None, "trainer.max_steps": 400}


def findings(context: Context) -> list[tuple[str, str, str | None]]:
    """Code, severity and hint."""
    found = [finding for check in RULES for finding in check(context)]
    return [(d.code, d.severity.value, d.hint) for d in found]


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("optimizer=adamw_s_ns",),
        ("optimizer=adamw_ms_2", LONG),
        ("optimizer=adafactor_rs",),
        ("optimizer=adafactor_relative",),
        ("optimizer=adamw_schedule_free",),
        ("optimizer=lion_8bit",),
        ("optimizer=muon",),
        ("hardware=h200", "optimizer=adamw_paged"),
        ("schedule=wsd",),
        ("lora=small", {"optimizer.lora_plus_ratio": 16.0}),
        ({"optimizer.layer_decay": 0.9, "optimizer.embedding_lr": 1e-4},),
        (
            "lora=small",
            {"optimizer.embedding_lr": 1e-4, "lora.modules_to_save": ["embed_tokens"]},
        ),
        ("schedule=multistep", {"trainer.epochs": 3.0}),
        (*EIGHT, "optimizer=muon"),
    ],
    ids=str,
)
def test_what_goes_together(overrides, solved):
    assert findings(solved(*overrides)) == []


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        # pages without CUDA
        (("optimizer=adamw_8bit",), ("LF310", "warning", "optimizer.paged=false")),
        (("optimizer=adamw_paged",), ("LF310", "warning", "optimizer=adamw")),
        (
            ("optimizer=lion", {"optimizer.paged": True}),
            ("LF310", "warning", "optimizer.paged=false"),
        ),
        # two ways to clip, and shards
        (({"optimizer.clip_value": 1.0},), ("LF311", "error", "optimizer.clip_norm=null")),
        (
            (*EIGHT, "deepspeed=stage2", "optimizer=adamw_s_ns"),
            ("LF311", "error", "optimizer.clip_value=null optimizer.clip_norm=1.0"),
        ),
        (
            (*EIGHT, "fsdp=full_shard", "optimizer=adamw_s_ns"),
            ("LF311", "error", "optimizer.clip_value=null optimizer.clip_norm=1.0"),
        ),
        # rates of their own
        (
            ({"optimizer.lora_plus_ratio": 16.0},),
            ("LF312", "error", "optimizer.lora_plus_ratio=null"),
        ),
        (
            ("lora=small", {"optimizer.embedding_lr": 1e-4}),
            ("LF312", "error", "optimizer.embedding_lr=null"),
        ),
        (
            ("optimizer=muon", {"optimizer.layer_decay": 0.9}),
            ("LF312", "error", "optimizer.layer_decay=null"),
        ),
        (
            ("optimizer=adafactor_rs", {"optimizer.layer_decay": 0.9}),
            ("LF312", "error", "optimizer.layer_decay=null"),
        ),
        # schedules that nobody follows
        (
            ("optimizer=adafactor_rs", "schedule=cosine"),
            ("LF313", "warning", "schedule=constant"),
        ),
        (
            ("optimizer=adamw_schedule_free", "schedule=linear"),
            ("LF313", "warning", "schedule=constant"),
        ),
        # schedules and the run's length
        (
            ("schedule=ms_1", LONG, {"schedule.milestones": [8, 4, 8]}),
            ("LF314", "error", "'schedule.milestones=[4,8]'"),
        ),
        (
            ("schedule=ms_1", LONG, {"schedule.milestones": [4, 4000]}),
            ("LF314", "warning", "'schedule.milestones=[4]'"),
        ),
        (
            ("schedule=multistep", {"trainer.epochs": 1.0}),
            ("LF314", "warning", "schedule=constant"),
        ),
        (
            ("schedule=wsd", LONG, {"schedule.warmup": 300, "schedule.decay": "50%"}),
            ("LF314", "error", "schedule.warmup=3% schedule.decay=10%"),
        ),
        # whole matrices
        ((*EIGHT, "deepspeed=stage2", "optimizer=muon"), ("LF317", "error", "deepspeed=none")),
        ((*EIGHT, "fsdp=full_shard", "optimizer=muon"), ("LF317", "error", "fsdp=none")),
    ],
    ids=str,
)
def test_what_does_not(overrides, expected, solved):
    assert findings(solved(*overrides)) == [expected]


@pytest.mark.parametrize("lora", ["ia3", "vera", "prompt"])
def test_adapters_without_b_matrices(lora, solved):
    context = solved(*TINY, f"lora={lora}", {"optimizer.lora_plus_ratio": 8.0})

    assert findings(context) == [("LF312", "error", "optimizer.lora_plus_ratio=null")]


@pytest.mark.parametrize("lora", ["small", "adalora", "dora", "eva"])
def test_adapters_with_b_matrices(lora, solved):
    assert findings(solved(*TINY, f"lora={lora}", {"optimizer.lora_plus_ratio": 8.0})) == []


@pytest.mark.parametrize(
    ("option", "versions", "hint"),
    [
        ("adamw_schedule_free", {}, "pip install 'llmforge[schedule-free]'"),
        ("lion", {}, "pip install 'llmforge[quantize]'"),
        ("adamw_paged", {}, "pip install 'llmforge[quantize]'"),
        ("muon", {"torch": "2.8.1+cpu"}, "pip install -U torch"),
    ],
)
def test_what_is_not_installed(option, versions, hint, solved):
    context = solved("hardware=h200", f"optimizer={option}")
    without = Context(context.spec, dataclasses.replace(context.facts, versions=versions))

    assert findings(context) == []
    assert findings(without) == [("LF315", "error", hint)]


def test_a_torch_that_has_it(solved):
    context = solved("optimizer=muon")
    for version in ("2.9.0", "2.13.0+cpu", "3.0"):
        facts = dataclasses.replace(context.facts, versions={"torch": version})
        assert findings(Context(context.spec, facts)) == []


def test_the_adapter_without_b_matrices_is_named(solved):
    (found,) = group_impossible(solved(*TINY, "lora=ia3", {"optimizer.lora_plus_ratio": 8.0}))
    assert found.message == "lora_plus_ratio with ia3, which has no B matrix"
