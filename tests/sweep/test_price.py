"""Hours of a point: from finished runs, else from the device's peak, else unknown."""

from __future__ import annotations

import json

import pytest

from llmforge.compiler.passes import compile_plan
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep.definition import define
from llmforge.sweep.preflight import Point, State, examine, grid
from llmforge.sweep.price import Pace, Price, history, price, training_flops
from llmforge.sweep.table import hours_text, points_table, summary

SMALL = ("hardware=cpu", "tracking=none")


def look(*overrides: str) -> list[Point]:
    definition = define(overrides)
    return examine(definition, grid(definition))


def finished(*overrides: str, seconds: float, step_seconds: float) -> RunFolder:
    """A run folder as a run of 11 steps leaves it, one line of the journal each."""
    run = RunFolder.create(compile_plan([*SMALL, *overrides]))
    lines = [{"t": 1000, "mark": "attempt", "attempt": 1, "from_step": 0}]
    for step in range(1, 12):
        t = 5000 + int(1000 * step_seconds * step)
        lines.append({"t": t, "step": step, "values": {"train_loss": 1.0}})  # type: ignore[dict-item]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    run.journal.write_text(text + '{"t": 99, "st', encoding="utf-8")
    run.write_json("result.json", {"eval_loss": 1.0, "seconds": seconds})
    run.set_status(Status.FINISHED, attempts=1)
    return run


def test_without_history_and_peak_the_time_is_unknown(work):
    points = look(*SMALL, "seed=1,2")

    assert [(p.hours, p.priced) for p in points] == [(None, "unknown")] * 2
    assert "unknown" not in points_table(define([*SMALL, "seed=1,2"]), points)


def test_finished_runs_of_the_same_shape_tell_the_time(work):
    finished("seed=9", seconds=32.0, step_seconds=2.0)
    points = look(*SMALL, "seed=1,2", "trainer.epochs=null", "trainer.max_steps=30")

    batch = compile_plan([*SMALL]).settings["trainer"]["global_batch"]
    samples = 30 * batch
    # 32 s less 11 steps of 2 s are spent once, 2 s for each batch
    assert points[0].priced == "runs"
    assert points[0].hours == pytest.approx((10 + 2.0 / batch * samples) / 3600)
    assert summary(points) == "2 points · 2 to run · 2 min one after the other (by finished runs)"


def test_a_run_of_another_shape_tells_nothing(work):
    finished("seed=9", "model.layers=1", seconds=32.0, step_seconds=2.0)

    assert look(*SMALL, "seed=1,2")[0].hours is None


def test_a_run_in_several_attempts_tells_nothing(work):
    run = finished("seed=9", seconds=32.0, step_seconds=2.0)
    run.set_status(Status.FINISHED, attempts=2)

    assert look(*SMALL, "seed=1,2")[0].hours is None


def test_the_peak_of_a_known_device(work):
    (point, _) = look("hardware=h100_80gb", "tracking=none", "seed=1,2")
    plan = compile_plan(["hardware=h100_80gb", "tracking=none", "seed=1"])
    facts = plan.facts["model"]
    length = plan.settings["collator"]["max_length"]
    per_token = 6 * facts["parameters"] + 6 * facts["layers"] * length * facts["hidden"]

    assert training_flops(plan) == pytest.approx(per_token * plan.estimate["tokens_at_most"])
    assert point.priced == "peak"
    assert point.hours == pytest.approx(
        per_token * plan.estimate["tokens_at_most"] / (989.4e12 * 0.35) / 3600
    )


def test_an_adapter_saves_the_gradients_of_frozen_weights(work):
    full = training_flops(compile_plan(["hardware=h100_80gb"]))
    adapter = training_flops(compile_plan(["hardware=h100_80gb", "lora=small"]))
    again = training_flops(
        compile_plan(["hardware=h100_80gb", "trainer.gradient_checkpointing=true"])
    )
    assert full is not None
    assert adapter is not None
    assert again is not None
    assert 0.6 < adapter / full < 0.95
    assert again == pytest.approx(full * 4 / 3)


def test_speeds_are_settings(work):
    plan = compile_plan([*SMALL])
    spec = define([*SMALL, "seed=1,2", "+sweep.speed.peak_tflops.cpu=0.1"]).spec

    assert price(plan, (), spec.speed).basis == "peak"
    assert price(plan, (), define([*SMALL, "seed=1,2"]).spec.speed) == Price()


def test_files_that_tell_nothing_are_passed_over(work):
    run = finished("seed=9", seconds=32.0, step_seconds=2.0)
    assert [type(pace) for pace in history((str(run.path.parent),))] == [Pace]
    history.cache_clear()
    run.journal.write_text("", encoding="utf-8")
    assert history((str(run.path.parent),)) == ()


def test_hours_as_people_say_them():
    assert [hours_text(h) for h in (0.0001, 0.5, 3.25, 1234.5)] == [
        "1 s", "30 min", "3.2 h", "1,234.5 h"
    ]  # fmt: skip


def test_a_run_that_was_finished_by_itself_is_the_points_answer(work):
    run = finished("seed=1", seconds=32.0, step_seconds=2.0)
    points = look(*SMALL, "seed=1,2")

    assert points[0].run_id == run.run_id
    assert (points[0].state, points[0].place) == (State.FINISHED, str(run.path))
    assert points[1].state is State.NEW
    assert summary(points).startswith("2 points · 1 finished before, in runs/ 1 · 1 to run")
