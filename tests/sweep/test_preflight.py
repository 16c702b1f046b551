"""Every point is known before the first is started."""

from __future__ import annotations

import subprocess
import sys

from llmforge.compiler.passes import compile_plan
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep import preflight
from llmforge.sweep.definition import define
from llmforge.sweep.preflight import State, examine, grid, refusals
from llmforge.sweep.table import summary

SMALL = ("hardware=cpu", "tracking=none")


def look(*overrides: str) -> list[preflight.Point]:
    definition = define([*SMALL, *overrides])
    return examine(definition, grid(definition))


def test_a_grid_with_two_planted_refusals_and_one_duplicate(work):
    points = look(
        "trainer.global_batch=32,64,100",
        "trainer.micro_batch=16",
        "optimizer.lr=1e-3,2e-3",
        "lora=none,small",
    )

    assert len(points) == 12
    refused = [p for p in points if p.state is State.REFUSED]
    assert {p.values["trainer.global_batch"] for p in refused} == {"100"}
    assert {p.codes for p in refused} == {("LF204",)}
    assert len([p for p in points if p.state is State.NEW]) == 8
    assert summary(points) == "12 points · 4 refused (LF204) · 8 to run"
    assert [(d.code, d.hint) for d in refusals(points)] == [("LF715", "sweep.refused=skip")]


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
