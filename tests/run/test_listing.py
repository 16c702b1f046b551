"""The list of runs: runs of their own and trials, by figures and settings."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmforge.diagnostics import ConfigRefused
from llmforge.run.folder import RunFolder
from llmforge.run.ledger import find_run
from llmforge.run.listing import Asked, runs_text
from llmforge.run.status import Status

RUNS = Path("runs")


def make(folder: str, status: Status, rate: float, **figures: object) -> RunFolder:
    run = RunFolder(folder)
    run.path.mkdir(parents=True)
    settings = {"optimizer": {"kind": "adamw", "lr": rate}, "seed": 1}
    run.write_json("plan.json", {"settings": settings})
    if figures:
        run.write_json("result.json", figures)
    run.set_status(status)
    return run


@pytest.fixture(autouse=True)
def four(work: Path) -> None:
    make("runs/own-1", Status.FINISHED, 1e-4, eval_loss=2.0, steps=10, baseline={"eval_loss": 6.0})
    make("runs/own-2", Status.FAILED, 2e-4)
    (work / "multirun/grid").mkdir(parents=True)
    (work / "multirun/grid/sweep.json").write_text("{}")
    make("multirun/grid/trial-1", Status.FINISHED, 3e-4, eval_loss=1.0, steps=10)
    make("multirun/grid/trial-2", Status.PRUNED, 4e-4)


def listed(**asked: object) -> list[str]:
    rows = json.loads(runs_text(RUNS, None, Asked(**asked), as_json=True))
    return [row["run"] for row in rows]


def refused(**asked: object) -> tuple[str, str | None]:
    with pytest.raises(ConfigRefused) as caught:
        listed(**asked)
    (found,) = caught.value.diagnostics
    return found.code, found.hint


def test_runs_and_trials_the_newest_first():
    text = runs_text(RUNS, None, Asked(), as_json=False)

    assert [line.split()[:2] for line in text.splitlines()] == [
        ["run", "sweep"],
        ["trial-2", "grid"],
        ["trial-1", "grid"],
        ["own-2", "FAILED"],
        ["own-1", "FINISHED"],
    ]


def test_filters():
    assert listed(status="finished") == ["trial-1", "own-1"]
    assert listed(sweep="grid") == listed(sweep="gr") == ["trial-2", "trial-1"]
    assert listed(where=["optimizer.lr>1e-4 and optimizer.lr<4e-4"]) == ["trial-1", "own-2"]
    assert listed(where=["eval_loss<3", "sweep=null"]) == ["own-1"]
    assert listed(where=["baseline.eval_loss>5"]) == ["own-1"]
    assert listed(limit=1) == ["trial-2"]
    none = runs_text(RUNS, None, Asked(where=["eval_loss<0"]), as_json=False)
    assert none == "none of 4 runs is like that"


def test_order_with_what_is_missing_last():
    assert listed(sort="eval_loss", status="finished") == ["trial-1", "own-1"]
    assert listed(sort="-eval_loss")[:2] == ["own-1", "trial-1"]
    assert listed(sort="optimizer.lr") == ["own-1", "own-2", "trial-1", "trial-2"]
    assert listed(sort="-optimizer.kind", limit=1) == ["trial-2"]


def test_columns():
    text = runs_text(RUNS, None, Asked(columns="run,optimizer.lr", limit=1), as_json=False)
    assert text.splitlines() == ["run      optimizer.lr", "trial-2  0.0004"]
    added = runs_text(RUNS, None, Asked(columns="+seed", limit=1), as_json=False)
    assert added.splitlines()[0].split() == ["run", "sweep", "status", "seed"]


def test_slips_are_told():
    assert refused(where=["eval_loss<"])[0] == "LF741"
    assert refused(where=["optimizer.rl=1"]) == ("LF742", "llmforge runs --columns +optimizer.lr")
    assert refused(sort="-eval_los") == ("LF742", "llmforge runs --columns +eval_loss")
    assert refused(columns="+nothing")[0] == "LF742"


def test_no_runs(tmp_path):
    place = tmp_path / "elsewhere"
    assert runs_text(place / "runs", None, Asked(where=["a=1"]), as_json=True) == "[]"
    text = runs_text(place / "runs", None, Asked(), as_json=False)
    assert text.endswith("llmforge train makes one")


def test_a_trial_is_found_by_its_name():
    assert find_run("trial-1", RUNS).path.parent.name == "grid"
    assert find_run("last", RUNS).run_id == "trial-2"
    # as a run of its own it comes first
    make("runs/trial-1", Status.FINISHED, 3e-4)
    assert find_run("trial-1", RUNS).path.parent.name == "runs"


def test_the_verb(llmforge):
    ran = llmforge('runs --where "eval_loss<3" --sort=-eval_loss --columns run,eval_loss')

    assert ran.out.splitlines() == ["run      eval_loss", "own-1    2", "trial-1  1"]
