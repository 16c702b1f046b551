"""The compiler whole: everything wrong is told at once, and nothing twice."""

from __future__ import annotations

import functools
import json
from contextlib import chdir, suppress
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from llmforge.compiler.context import Context, Facts
from llmforge.compiler.parse import parse
from llmforge.compiler.passes import (
    PASSES,
    check,
    compile_plan,
    freeze,
    run_passes,
    run_rules,
)
from llmforge.compiler.trace import traced
from llmforge.diagnostics import ConfigRefused
from llmforge.origins import Origins, leaves
from llmforge.plan import Plan
from llmforge.schema import SECTIONS
from llmforge.schema.typed import section_spec


def put(values, key, value):
    """Set a dotted key, as far as what is above it is still a mapping."""
    *parents, name = key.split(".")
    for part in parents:
        values = values[part]
        if not isinstance(values, dict):
            return
    values[name] = value


@pytest.fixture(autouse=True)
def here(work, everything_installed):
    return work


def codes(*overrides, dirs=()):
    """Code and key of each finding, errors first."""
    return [(d.code, d.key) for d in check(overrides, dirs).diagnostics]


def test_nothing_to_say():
    checked = check(["hardware=cpu"])

    assert (checked.diagnostics, checked.refused) == ((), False)


def test_three_mistakes_at_once():
    assert codes("optimiser=adamw", "trainer.epoch=3", "schedule=cosin") == [
        ("LF102", "schedule"),
        ("LF102", "optimiser"),
        ("LF101", "trainer.epoch"),
    ]


def test_mistakes_of_every_layer_at_once():
    """Composition, schema, files and rules: a fault in one hides none in another."""
    found = codes(
        "trainer.epoch=3", "optimizer.lr=fast", "data=jsonl", "data.train=nowhere.jsonl",
        "lora=small", "lora.targets=[q_prj]", "evaluation.every=100000", "hub=push",
        "hardware=cpu", "model.attention=flash_attention_2",
    )  # fmt: skip

    assert found == [
        ("LF101", "trainer.epoch"),
        ("LF104", "optimizer.lr"),
        ("LF501", "data.train"),
        ("LF306", "model.attention"),
        ("LF601", "lora.targets"),
        ("LF701", "hub.repository"),
        ("LF604", "lora.kind"),
    ]


def test_rules_see_the_value_before_the_refused_one():
    """`trainer.epochs` stands in with what it was, so the interval is still compared."""
    found = codes("trainer.epochs=many", "checkpoint.every=10000000")

    assert found == [("LF104", "trainer.epochs"), ("LF203", "checkpoint.every")]


def test_nothing_is_said_about_a_value_that_only_stands_in():
    found = codes("schedule.warmup=x", "trainer.epochs=null", "trainer.max_steps=1")

    assert found == [("LF104", "schedule.warmup")]


def test_no_follow_ups_of_a_section_that_could_not_be_read(here):
    (here / "mine/lora").mkdir(parents=True)
    (here / "mine/lora/broken.yaml").write_text("r: [")

    assert codes("lora=broken", dirs=["mine"]) == [("LF107", "lora")]


def test_errors_come_first_and_findings_once():
    checked = check(["lora=small", "trainer.epoch=1", "trainer.epoch=1"])

    assert [d.severity.value for d in checked.diagnostics] == ["error", "warning"]


def test_findings_know_who_set_their_key():
    (found,) = check(["checkpoint.every=10000000"]).diagnostics

    assert [o.place for o in found.origins] == ["conf/checkpoint/default.yaml:3", "command line"]


def test_refusal_carries_every_finding():
    with pytest.raises(ConfigRefused) as refused:
        compile_plan(["trainer.epoch=3", "lora=small"])

    assert [d.code for d in refused.value.diagnostics] == ["LF101", "LF604"]
    assert str(refused.value).startswith("LF101: unknown key `trainer.epoch`")


def test_warnings_stand_in_the_plan():
    plan = compile_plan(["lora=small", "hardware=cpu"])

    assert [(f["code"], f["severity"]) for f in plan.findings] == [("LF604", "warning")]
    assert plan.overrides == ["lora=small", "hardware=cpu"]


def test_own_root_replaces_the_shipped_tree(here):
    (here / "conf").mkdir()
    (here / "conf/config.yaml").write_text("name: bare\n")

    checked = check([], root=here / "conf")

    assert {d.code for d in checked.diagnostics} == {"LF105"}


ODD = [
    None, True, False, 0, 1, 2, 3, 7, 1000, 2**31, -1, 0.5, 1e-9, 99.5, float("inf"), "", "auto",
    "x", "epoch", "10%", "100%", "none", "all", "cuda", "cpu", "float16", "bfloat16", "float32",
    "flash_attention_2", "eager", "train", "model", "text", "messages", "nowhere.jsonl",
    "qa.jsonl", "tiny", "..", "gpt2", "gpt_neox", "[a-", ["q_proj"], [], ["x", "y"], [0.1, 0.2],
    "env:TOKEN", "http://[::1", "postgresql://me:pw@host/db", {}, {"kind": "lora"},
]  # fmt: skip

STARTS = [
    (), ("data=jsonl", "data.train=qa.jsonl"), ("model=folder", "model.path=tiny", "lora=small"),
    ("model=folder", "model.path=tiny", "lora=small", "quantization=4bit", "hardware=t4"),
    ("optimizer=adafactor", "hardware=h200", "launch=torchrun", "deepspeed=stage3"),
    ("hardware=auto", "fsdp=full_shard", "checkpoint=best", "optimizer=adamw_8bit"),
]  # fmt: skip


@functools.cache
def legal(section: str, text: str) -> list[tuple[str, Any]]:
    """What the section's schema takes from `ODD`, key by key; its values are given as JSON."""
    values = json.loads(text)
    spec = section_spec(section, values)
    found = []
    for key, old in leaves(values):
        for value in ODD:
            if value == old or key == "kind":
                continue
            changed = json.loads(text)
            put(changed, key, value)
            with suppress(ValidationError):
                spec.model_validate_json(json.dumps(changed))
                found.append((f"{section}.{key}", value))
    return found


@settings(
    max_examples=200,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(chosen=st.data())
def test_odd_values_are_refused_or_compiled_and_nothing_breaks(chosen, composed, bench):
    """Whatever is legal by itself, in whatever combination, no pass, rule or lowering raises."""
    values = composed(*chosen.draw(st.sampled_from(STARTS)))
    for section in chosen.draw(st.lists(st.sampled_from(SECTIONS), min_size=1, max_size=4)):
        if changes := legal(section, json.dumps(values[section])):
            put(values, *chosen.draw(st.sampled_from(changes)))

    spec, problems = parse(values)

    assert problems == []
    with chdir(bench):
        context, found = run_passes(Context(spec, Facts()), Origins())
        found += run_rules(context)
        if not any(d.is_error for d in found):
            plan = freeze(context, Origins(), found, ())
            assert Plan.from_dict(json.loads(plan.to_json())) == plan


def test_a_solved_context_stays_as_it_is(solved):
    """Each pass solves what is `auto`, so run again it solves nothing."""
    context = solved()

    again = {p.__name__: [v.key for v in p(context).values] for p in PASSES}

    assert {name: keys for name, keys in again.items() if keys} == {}


def test_passes_are_pure(unsolved, bench, monkeypatch):
    monkeypatch.chdir(bench)
    context = unsolved()
    before = context.spec.settings()

    for function in PASSES[:3]:
        assert function(context) == function(context)

    assert context.spec.settings() == before


def test_a_traced_spec_notes_what_is_read(unsolved):
    spec, seen = traced(unsolved().spec)

    _ = spec.trainer.epochs, spec.seed, isinstance(spec.optimizer, object)

    assert seen == {"trainer.epochs", "seed"}
