"""Between a plan and its run: packs are counted, and the plan is made again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmforge.compiler.passes import compile_plan
from llmforge.diagnostics import ConfigRefused
from llmforge.plan import Plan
from llmforge.run.ready import NotPrepared, prepared_report, settle
from llmforge.run.status import Status

OVERRIDES = [
    "name=ready", "data=jsonl", "data.train=rows.jsonl", "data.eval_fraction=0.1",
    "collator=packed", "collator.max_length=64", "model.layers=1", "model.hidden=16",
    "model.intermediate=32", "model.heads=2", "model.kv_heads=2", "model.context=64",
    "tokenizer.vocabulary=300", "trainer.epochs=2", "trainer.global_batch=4",
    "evaluation.every=25%", "checkpoint.every=epoch", "schedule.warmup=10%", "tracking=none",
    "hardware=cpu",
]  # fmt: skip


@pytest.fixture(autouse=True)
def here(work: Path) -> Path:
    rows = [{"prompt": f"What is {n} + 1?", "completion": "one more " * (n % 5 + 1)}
            for n in range(60)]  # fmt: skip
    (work / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return work


def compiled(*overrides: str) -> Plan:
    return compile_plan([*OVERRIDES, *overrides])


def test_a_packed_plan_is_settled_by_preparing_and_stays_the_same_run():
    before = compiled()
    assert not before.settled
    assert prepared_report(before) is None

    after = settle(before, compiled, quiet=True)

    assert after.settled
    assert (after.run_id, after.fingerprint, after.stages) == (
        before.run_id, before.fingerprint, before.stages,
    )  # fmt: skip
    report = prepared_report(after)
    assert report is not None
    packs = report["packing"]["packs"]
    assert after.facts["data"]["samples"] == {"count": packs, "exact": True, "what": "packs"}
    steps = 2 * -(-packs // 4)
    assert after.estimate["steps"] == steps
    assert after.settings["evaluation"]["every"] == max(1, steps // 4)
    assert after.settings["checkpoint"]["every"] == steps // 2
    assert compiled().settled, "the second time nothing is prepared"


def test_a_settled_plan_is_returned_as_it_is():
    plan = compiled("collator.packing=none")

    assert settle(plan, None) is plan


def test_a_saved_plan_with_foretold_steps_is_refused_with_the_way_out(tmp_path: Path):
    saved = Plan.load(compiled().save(tmp_path / "plan.json"))

    with pytest.raises(ConfigRefused) as refused:
        settle(saved, None)

    (found,) = refused.value.diagnostics
    assert (found.code, found.key) == ("LF513", "collator.packing")
    assert found.origins, "it says where packing was asked for"


def test_data_that_cannot_be_prepared_end_it():
    plan = compiled("data.max_cut_tokens=0", "collator.max_length=16")

    with pytest.raises(NotPrepared) as failed:
        settle(plan, compiled, quiet=True)

    outcome = failed.value.outcome
    assert outcome.exit_code == 1
    assert outcome.status is not Status.FINISHED
    assert outcome.diagnostic is not None
    assert "are cut" in outcome.diagnostic.message


def test_samples_over_a_limit_are_not_the_drivers_to_answer():
    """They lie there whole, but another plan's limit refuses them: the worker says so."""
    plan = compiled("collator.max_length=16", "data.max_cut_tokens=null")
    settle(plan, lambda: plan, quiet=True)
    strict = compiled("collator.max_length=16", "data.max_cut_tokens=0")

    assert prepared_report(plan) is not None
    assert strict.stages["prepare"] == plan.stages["prepare"]
    assert prepared_report(strict) is None
