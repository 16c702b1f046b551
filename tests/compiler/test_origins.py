"""Nobody asks in vain who set a value: every leaf of a plan has a chain that ends in its value."""

from __future__ import annotations

from contextlib import chdir

import pytest

from llmforge.compiler.passes import check, compile_plan, freeze
from llmforge.compose import groups, options
from llmforge.origins import Origin

QA = ("data.train=qa.jsonl", "data.fields.prompt=question", "data.fields.completion=answer")
TINY = ("model=folder", "model.path=tiny")
EIGHT = ("hardware=h200", "hardware.count=8", "launch=torchrun")

COMPOSITIONS = [
    (),
    ("hardware=cpu",),
    ("experiment=smoke",),
    ("experiment=gsm8k", "data.train=qa.jsonl", "data.evaluation=held_out.jsonl"),
    ("experiment=gsm8k", "data.train=[qa.jsonl,held_out.jsonl]"),
    ("experiment=qlora", "model.path=tiny", "hardware=rtx4090"),
    ("data=jsonl", *QA),
    ("collator=completion", "data=jsonl", *QA),
    ("collator=lm", "collator.max_length=64"),
    (*TINY, "lora=large", "lora.targets=[q_proj,v_proj]"),
    (*TINY, "lora=small", "lora.modules_to_save=[lm_head]"),
    (*TINY, "lora=small", "quantization=8bit", "hardware=a100_80gb"),
    (*EIGHT, "deepspeed=stage3", "deepspeed.offload_optimizer=true"),
    (*EIGHT, "deepspeed=stage3", "deepspeed.offload_parameters=true"),
    (*EIGHT, "fsdp=full_shard"),
    ("model=hub", "model.id=example/none"),
    ("model.family=opt",),
    ("model.family=gpt_neo", "model=small_llama"),
    ("checkpoint=best", "evaluation.every=epoch", "checkpoint.every=epoch"),
    ("trainer.epochs=null", "trainer.max_steps=100", "trainer.log_every=10%"),
    ("trainer.micro_batch=4", "trainer.accumulation=2", "trainer.global_batch=auto"),
    ("trainer={epochs: 2, global_batch: 16}",),
    ("name=run-${seed}", "seed=7"),
    ("optimizer=adafactor_relative", "schedule=constant"),
    ("++trainer.epochs=3", "generation=creative", "tracking=none", "precision=bfloat16"),
    # what a preset file leaves behind: tests/compiler/test_preset_files.py
    *(
        (f"{group}={o.name}",)
        for group in ("optimizer", "schedule")
        for o in options(group)
        if o.name != "file"
    ),
]


@pytest.mark.parametrize("overrides", COMPOSITIONS, ids=" ".join)
def test_every_leaf_has_a_chain_that_ends_in_its_value(overrides, compiled):
    plan = compiled(*overrides)
    chains = plan.origins.chains

    for key, value in plan.leaves():
        last = chains[key][-1]
        assert last.value == value or "interpolated from" in last.reason, key


@pytest.mark.parametrize("overrides", COMPOSITIONS, ids=" ".join)
def test_no_chain_without_a_leaf(overrides, compiled):
    plan = compiled(*overrides)

    assert set(plan.origins.chains) - {key for key, _ in plan.leaves()} == set()


@pytest.mark.parametrize("overrides", COMPOSITIONS, ids=" ".join)
def test_files_are_named_with_their_line(overrides, compiled, request):
    conf = request.config.rootpath
    for key, chain in compiled(*overrides).origins.chains.items():
        for origin in chain:
            if origin.kind == "file":
                line = (
                    (conf / origin.where).read_text(encoding="utf-8").splitlines()[origin.line - 1]
                )
                assert line.split(":")[0].strip() == key.rpartition(".")[2]


@pytest.mark.parametrize("overrides", COMPOSITIONS, ids=" ".join)
def test_derived_values_name_keys_that_exist(overrides, compiled):
    plan = compiled(*overrides)
    leaves = dict(plan.leaves())
    known = {".".join(key.split(".")[:n]) for key in leaves for n in range(1, key.count(".") + 2)}
    not_looked_up = tuple(f"{key}." for key, value in leaves.items() if value is None)

    reads = {read for chain in plan.origins.chains.values() for o in chain for read in o.reads}

    assert {r for r in reads - known if not r.startswith(not_looked_up)} == set()


def test_every_group_is_composed_here_or_in_test_conf():
    assert {"optimizer", "schedule"} <= set(groups())


def test_a_chain_from_file_to_override_to_derived(compiled):
    plan = compiled("evaluation.every=50%", "trainer.epochs=null", "trainer.max_steps=400")

    assert plan.origins.chain("evaluation.every") == (
        Origin("file", "conf/evaluation/default.yaml", "25%", 3),
        Origin("override", "evaluation.every=50%", "50%"),
        Origin("derived", "derive_intervals", 200, reason="50% of 400 steps",
               reads=("estimate.steps",)),
    )  # fmt: skip


def test_a_file_says_what_brought_it_in(compiled):
    plan = compiled("experiment=qlora", "model.path=tiny", "hardware=rtx4090")

    assert [(o.place, o.value, o.reason) for o in plan.origins.chain("lora.r")] == [
        ("conf/lora/small.yaml:4", 8, "included by conf/lora/medium.yaml"),
        ("conf/lora/medium.yaml:6", 32, "chosen by conf/experiment/qlora.yaml:7"),
    ]


def test_a_section_that_changed_its_kind_leaves_no_chain_behind(bench):
    with chdir(bench):
        plan = compile_plan(["data=jsonl", *QA])

    assert plan.settings["collator"]["kind"] == "completion"
    assert "collator.turns" not in plan.origins.chains


def test_freezing_does_not_touch_the_checked_origins(work):
    checked = check(["hardware=cpu"])
    before = checked.origins.to_dict()

    freeze(checked.context, checked.origins, (), ())

    assert checked.origins.to_dict() == before
