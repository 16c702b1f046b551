"""Every point is known before the first is started."""

from __future__ import annotations

import subprocess
import sys

from llmforge.compiler.passes import compile_plan
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep import preflight
from llmforge.sweep.definition import define
from llmforge.sweep.preflight import State, examine, grid
from llmforge.sweep.table import summary

SMALL = ("hardware=cpu", "tracking=none")


def look(*overrides: str) -> list[preflight.Point]:
    definition = define([*SMALL, *overrides])
    return examine(definition, grid(definition))


TWELVE = (
    "trainer.global_batch=16,24,32,40 trainer.micro_batch=auto,4,16 lora=small "
    "trainer.epochs=null trainer.max_steps=10 hardware=cpu tracking=none"
)
"""Micro batch 16 does not divide 24 and 40, and is what `auto` comes to beside 16."""


def test_a_grid_with_two_planted_refusals_and_one_duplicate(llmforge, work):
    told = llmforge(f"sweep {TWELVE} --dry-run")

    assert told.code == 0, told.err
    first, _, *rows = told.out.splitlines()
    assert first.endswith("12 points · 1 duplicate · 2 refused (LF204) · 9 to run")
    states = [row.split()[3] for row in rows[:12]]
    assert (states[2], states[5], states[11]) == ("duplicate", "refused", "refused")
    assert rows[2].split()[4] == rows[0].split()[4]  # the run of the first point
    assert states.count("new") == 9
    assert told.err.count("warning[LF715]") == 2
    assert "trainer.global_batch=24 trainer.micro_batch=16" in told.err
    assert not (work / "multirun").exists()


def test_a_sweep_that_takes_no_refused_points_starts_none(llmforge, work):
    told = llmforge(f"sweep {TWELVE} sweep.refused=stop")

    assert told.code == 2
    assert told.err.count("error[LF715]") == 2
    assert "hint: sweep.refused=skip" in told.err
    assert not list(work.glob("multirun/*/*/plan.json"))


def test_a_model_that_another_run_trains_must_be_there(work):
    asked = ("model=trained", 'model.overrides=["name=base"]', "seed=1,2")
    refused = look(*asked)

    assert {p.codes for p in refused} == {("LF625",)}
    assert {p.hints for p in refused} == {("model.runs=runs",)}
    assert {p.hints for p in look(*asked, "model.runs=runs")} == {("llmforge run name=base",)}

    run = RunFolder.create(compile_plan([*SMALL, "name=base"]))
    run.set_status(Status.FINISHED)
    run.write_json("manifest.json", {"files": {}})
    assert [p.state for p in look(*asked, "model.runs=runs")] == [State.NEW, State.NEW]


def test_points_that_are_one_run_are_run_once(work):
    points = look("optimizer.lr=1e-3,0.001,2e-3", "trainer.global_batch=32,auto")

    assert [p.state for p in points[:4]].count(State.DUPLICATE) == len(points[:4]) - len(
        {p.fingerprint for p in points[:4]}
    )
    runs = [p.run_id for p in points if p.runs]
    assert len(runs) == len(set(runs)) == len({p.fingerprint for p in points})


def test_a_point_is_the_run_that_its_overrides_give(work):
    point = look("seed=1,2")[1]

    assert point.fingerprint == compile_plan([*SMALL, "seed=2"]).fingerprint
    assert point.steps == compile_plan([*SMALL, "seed=2"]).estimate["steps"]


def test_many_points_are_shared_between_processes_and_stay_in_order(work, monkeypatch):
    monkeypatch.setattr(preflight, "FEWEST_PER_PROCESS", 2)
    shared = look("seed=range(1,6)", "optimizer.lr=1e-3,2e-3")
    monkeypatch.setattr(preflight, "FEWEST_PER_PROCESS", 1000)

    assert shared == look("seed=range(1,6)", "optimizer.lr=1e-3,2e-3")
    assert [p.number for p in shared] == list(range(10))


def test_what_became_of_a_point_before(work):
    definition = define([*SMALL, "seed=1,2,3"])
    points = examine(definition, grid(definition))
    finished = RunFolder.create(preflight.plan_of(definition, points[0]))
    finished.write_json("result.json", {"eval_loss": 1.0})
    finished.set_status(Status.FINISHED)
    RunFolder.create(preflight.plan_of(definition, points[1])).set_status(Status.FAILED)

    found = examine(definition, grid(definition))

    assert [p.state for p in found] == [State.FINISHED, State.STARTED, State.NEW]
    assert summary(found) == "3 points · 1 finished before · 1 begun before · 2 to run"


def test_nothing_heavy_is_imported(work):
    code = (
        "import sys; from llmforge.sweep.definition import define; "
        "from llmforge.sweep.preflight import examine, grid; "
        "d = define(['seed=1,2', 'hardware=cpu']); assert len(examine(d, grid(d))) == 2; "
        "print([m for m in ('torch', 'transformers', 'mlflow', 'numpy', 'optuna') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
