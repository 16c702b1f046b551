"""The compiler whole: everything wrong is told at once, and nothing twice."""

from __future__ import annotations

import pytest

from llmforge.compiler.passes import PASSES, check, compile_plan
from llmforge.compiler.trace import traced
from llmforge.diagnostics import ConfigRefused


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
        "lora=small", "lora.targets=[q_prj]", "evaluation.every=100000", "checkpoint.hub_push=true",
        "hardware=cpu", "model.attention=flash_attention_2",
    )  # fmt: skip

    assert found == [
        ("LF101", "trainer.epoch"),
        ("LF104", "optimizer.lr"),
        ("LF501", "data.train"),
        ("LF306", "model.attention"),
        ("LF601", "lora.targets"),
        ("LF701", "checkpoint.hub_repository"),
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
