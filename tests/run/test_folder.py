"""The run folder: statuses that survive their writers, one worker at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run.ledger import RunBusy, RunFolder, Status, find_run, list_runs


def test_a_plan_becomes_a_folder(plan: Plan) -> None:
    run = RunFolder.create(plan)
    assert run.path == plan.run_folder
    assert run.plan().to_dict() == plan.to_dict()
    assert json.loads((run.path / "origins.json").read_text()) == plan.origins.to_dict()
    assert run.status() is Status.CREATED
    assert run.result() is None
    assert RunFolder.open(run.path).run_id == plan.run_id


def test_another_bookkeeping_keeps_the_older_plan(plan: Plan) -> None:
    run = RunFolder.create(plan)
    run.set_status(Status.INTERRUPTED, attempts=1)
    RunFolder.create(replace(plan, overrides=["trainer.log_every=5"]))
    assert RunFolder.open(run.path).plan().overrides == ["trainer.log_every=5"]
    assert Plan.load(run.path / "plan.1.json").overrides == plan.overrides
    assert run.status() is Status.INTERRUPTED


def test_a_folder_without_a_plan_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no run folder"):
        RunFolder.open(tmp_path)


def test_running_means_that_the_process_lives(plan: Plan) -> None:
    run = RunFolder.create(plan)
    run.set_running("train")
    assert run.status() is Status.RUNNING
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    run.set_status(Status.RUNNING, pid=child.pid, born=1)
    time.sleep(0.3)  # a zombie now: dead, but not waited for
    assert run.status() is Status.FAILED
    child.wait()
    record = run.record()
    assert (record.status, record.code) == (Status.FAILED, "LF804")
    assert json.loads((run.path / "status.json").read_text())["status"] == "RUNNING"


def test_a_process_of_the_same_number_is_another_one(plan: Plan) -> None:
    run = RunFolder.create(plan)
    run.set_status(Status.RUNNING, pid=os.getpid(), born=1)
    assert run.status() is Status.FAILED


def test_another_host_is_given_the_benefit_of_the_doubt(plan: Plan) -> None:
    run = RunFolder.create(plan)
    run.set_status(Status.RUNNING, pid=2**22 - 1, host="elsewhere")
    assert run.status() is Status.RUNNING


def test_a_status_is_never_half_written(plan: Plan) -> None:
    run = RunFolder.create(plan)
    run.set_status(Status.FAILED, reason="é" * 1000)
    assert run.record().reason == "é" * 1000
    assert list(run.path.glob(".*.tmp")) == []


def test_a_warning_is_kept_once(plan: Plan) -> None:
    run = RunFolder.create(plan)
    for _ in range(3):
        run.warn({"code": "LF807", "message": "away"})
    assert len(run.record().warnings) == 1


def test_two_drivers_never_hold_one_folder(plan: Plan) -> None:
    run = RunFolder.create(plan)
    with run.lock(), pytest.raises(RunBusy), run.lock(patience=0.1):
        pass
    with run.lock(patience=0.1):
        pass


def test_the_lock_is_held_as_long_as_a_worker_lives(plan: Plan) -> None:
    run = RunFolder.create(plan)
    with run.lock() as handle:
        worker = subprocess.Popen(
            [sys.executable, "-c", "import time; time.sleep(30)"], pass_fds=(handle,)
        )
    with pytest.raises(RunBusy), run.lock(patience=0.1):
        pass
    worker.kill()
    worker.wait()
    with run.lock(patience=0.1):
        pass


class TestFinding:
    @pytest.fixture
    def runs(self, plan: Plan, work: Path) -> Path:
        for age, name in enumerate(("beta-2222222222", "alpha-1111111111", "alpha-1199999999")):
            run = RunFolder(work / "runs" / name)
            run.path.mkdir(parents=True)
            plan.save(run.plan_file)
            run.set_status(Status.FINISHED)
            run.write_json("mlflow.json", {"run_id": f"{age}" * 32})
            os.utime(run.path / "status.json", (1000 - age, 1000 - age))
        return work / "runs"

    @pytest.mark.parametrize(
        ("ref", "found"),
        [
            ("alpha-1111111111", "alpha-1111111111"),
            ("alpha-111", "alpha-1111111111"),
            ("b", "beta-2222222222"),
            ("last", "beta-2222222222"),
            ("1" * 32, "alpha-1111111111"),
            ("2" * 8, "alpha-1199999999"),
            ("runs/beta-2222222222", "beta-2222222222"),
        ],
    )
    def test_by_any_name(self, runs: Path, ref: str, found: str) -> None:
        assert find_run(ref, runs).run_id == found

    def test_newest_first(self, runs: Path) -> None:
        assert [run.run_id for run in list_runs(runs)] == [
            "beta-2222222222",
            "alpha-1111111111",
            "alpha-1199999999",
        ]

    def test_an_ambiguous_start_names_the_candidates(self, runs: Path) -> None:
        with pytest.raises(LookupError, match="alpha-1111111111, alpha-1199999999"):
            find_run("alpha", runs)

    def test_a_slip_names_what_comes_near(self, runs: Path) -> None:
        with pytest.raises(LookupError, match="beta-2222222222"):
            find_run("beat-2222222222", runs)

    def test_nothing_yet(self, tmp_path: Path) -> None:
        with pytest.raises(LookupError, match="no run"):
            find_run("last", tmp_path / "none")
