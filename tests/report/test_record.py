"""A sweep in MLflow: one parent, its trials below it, nothing left running."""

from __future__ import annotations

import csv
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.report.record import record
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.recorder import INTERRUPTED, Recorder, recorded
from llmforge.track.parent import read_state
from llmforge.track.record import MlflowRecord

MakeSweep = Callable[..., SweepFolder]


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables: making them takes seconds, copying them none."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def tracked(make_sweep: MakeSweep, work: Path, empty_database: Path) -> SweepFolder:
    """The planted sweep, recorded in a database of the test's own."""
    shutil.copy(empty_database, work / "mlflow.db")
    return make_sweep(f"tracking.uri=sqlite:///{work}/mlflow.db")


def client_of(folder: SweepFolder) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(read_state(folder.path)["uri"])


def parent_of(folder: SweepFolder) -> Any:
    return client_of(folder).get_run(read_state(folder.path)["run_id"])


def trials(folder: SweepFolder) -> list[RunFolder]:
    return [RunFolder(file.parent) for file in sorted(folder.path.glob("*/plan.json"))]


def record_trial(run: RunFolder, close: bool = True) -> None:
    """What the trial's worker does."""
    found = MlflowRecord(run.plan(), run)
    found.open()
    if close:
        found.close(run.status())


def finished(folder: SweepFolder) -> list[RunFolder]:
    return [run for run in trials(folder) if run.status() is Status.FINISHED]


def test_the_sweep_is_the_parent_of_its_trials(tracked: SweepFolder) -> None:
    first, second = finished(tracked)
    record_trial(first)  # began before the parent was made
    record(tracked.path)
    assert parent_of(tracked).info.status == "RUNNING"
    record_trial(second)

    record(tracked.path, "finished")

    parent, client = parent_of(tracked), client_of(tracked)
    assert parent.info.status == "FINISHED"
    for run in (first, second):
        child = client.get_run(run.read_json("mlflow.json")["run_id"])
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        assert child.data.tags["llmforge.sweep"] == "planted"
        assert child.info.experiment_id == parent.info.experiment_id
    assert parent.data.params["space.optimizer.lr"] == "1e-3,3e-3"
    assert parent.data.params["sweep.objective"] == "eval_loss"
    tags = parent.data.tags
    assert (tags["llmforge.points"], tags["llmforge.refused"]) == ("8", "4")
    best = min(finished(tracked), key=lambda run: run.result()["eval_loss"])
    assert tags["best.run"] == best.run_id
    assert tags["best.mlflow_run"] == best.read_json("mlflow.json")["run_id"]
    assert parent.data.metrics["best.eval_loss"] == pytest.approx(3.1)
    series = client.get_metric_history(parent.info.run_id, "best_so_far.eval_loss")
    assert [(one.step, one.value) for one in series] == [(1, 3.1), (2, 3.1)]


def test_table_refusals_page_and_pictures_are_artifacts(tracked: SweepFolder, work: Path) -> None:
    record(tracked.path, "finished")

    client, parent = client_of(tracked), parent_of(tracked)
    names = {one.path for one in client.list_artifacts(parent.info.run_id)}
    assert names == {
        "sweep.json", "points.jsonl", "leaderboard.json", "leaderboard.csv", "refused.json",
        "importance.json", "report.html", "plots",
    }  # fmt: skip
    plots = {one.path for one in client.list_artifacts(parent.info.run_id, "plots")}
    assert plots == {"plots/curve-0.svg", "plots/curve-1.svg", "plots/parallel.svg"}
    here = Path(client.download_artifacts(parent.info.run_id, "", str(work)))
    with (here / "leaderboard.csv").open(encoding="utf-8", newline="") as stream:
        board = list(csv.DictReader(stream))
    assert [row["status"] for row in board] == ["finished", "finished", "failed", "created"]
    assert board[2]["reason"] == "loss is nan at step 3"
    assert "for a model that sees 128" in (here / "refused.json").read_text(encoding="utf-8")
    assert (here / "plots/parallel.svg").read_text(encoding="utf-8").startswith("<svg xmlns=")


def test_a_resumed_sweep_is_one_run_with_each_point_once(tracked: SweepFolder) -> None:
    record(tracked.path)
    before = read_state(tracked.path)["run_id"]
    late = next(run for run in trials(tracked) if run.status() is Status.FAILED)
    late.write_json("result.json", {"eval_loss": 2.5, "steps": 12})
    late.set_status(Status.FINISHED, code=None, reason=None)

    record(tracked.path, "finished")
    record(tracked.path, "finished")

    assert read_state(tracked.path)["run_id"] == before
    series = client_of(tracked).get_metric_history(before, "best_so_far.eval_loss")
    assert [one.value for one in series] == [pytest.approx(3.1), pytest.approx(3.1), 2.5]
    everything = client_of(tracked).search_runs([parent_of(tracked).info.experiment_id])
    above = [one for one in everything if "mlflow.parentRunId" not in one.data.tags]
    assert [one.info.run_id for one in above] == [before]
    assert len(everything) == 4


@pytest.mark.parametrize("how", ["interrupted", "stopped", "killed"])
def test_nothing_is_left_running(tracked: SweepFolder, how: str) -> None:
    record(tracked.path)
    open_trial = finished(tracked)[0]
    record_trial(open_trial, close=False)  # its worker was killed
    if how == "stopped":
        tracked.stop({"message": "three alike"})

    # a driver that was killed says nothing; the next one's end settles what it left
    record(tracked.path, "interrupted" if how == "interrupted" else "finished")

    client, parent = client_of(tracked), parent_of(tracked)
    wanted = {"interrupted": "KILLED", "stopped": "FAILED", "killed": "FINISHED"}
    assert parent.info.status == wanted[how]
    child = client.get_run(open_trial.read_json("mlflow.json")["run_id"])
    assert child.info.status == "FINISHED"
    assert not client.search_runs([parent.info.experiment_id], "attributes.status = 'RUNNING'")


def test_without_tracking_there_is_the_page_alone(planted: SweepFolder) -> None:
    assert Recorder(planted.path).end() is None

    assert (planted.path / "report.html").is_file()
    assert not (planted.path / "mlflow.json").exists()
    assert not (planted.path / "record.log").exists()


def test_the_driver_records_in_another_process(tracked: SweepFolder) -> None:
    trouble: list[Any] = []

    with recorded(tracked.path, trouble) as recorder:
        recorder.news()

    assert trouble == []
    assert parent_of(tracked).info.status == "FINISHED"
    assert Recorder(tracked.path).end() is None  # nothing new, nothing started


def test_an_interrupted_driver_ends_the_run(tracked: SweepFolder) -> None:
    with pytest.raises(KeyboardInterrupt), recorded(tracked.path, []):
        raise KeyboardInterrupt

    assert parent_of(tracked).info.status == "KILLED"


def test_who_looks_ends_the_run_that_a_killed_driver_left_open(
    tracked: SweepFolder, llmforge: Callable[[str], Any]
) -> None:
    record(tracked.path)  # what a driver starts while trials run; then it is killed
    assert parent_of(tracked).info.status == "RUNNING"

    with tracked.lock():
        assert llmforge("runs").err == ""  # it is still driven
    assert "planted: its driver is gone" in llmforge("runs").err
    deadline = time.monotonic() + 120
    while parent_of(tracked).info.status == "RUNNING":
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert parent_of(tracked).info.status == "KILLED"
    assert llmforge("report planted").err == ""  # once is enough

    # the next driver goes on with the same one
    with recorded(tracked.path, []):
        """Trials run."""
    assert parent_of(tracked).info.status == "FINISHED"


def test_a_folder_that_cannot_be_read_is_told_and_the_list_stands(
    planted: SweepFolder, llmforge: Callable[[str], Any]
) -> None:
    (planted.path / "mlflow.json").write_text("{not json", encoding="utf-8")

    told = llmforge("runs")
    assert told.code == 0
    assert "planted: its run in MLflow stays open" in told.err
    assert "tiny" in told.out


def test_mlflow_that_is_away_is_a_warning(
    make_sweep: MakeSweep, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    folder = make_sweep("tracking.uri=http://127.0.0.1:9")  # discard: nobody listens
    trouble: list[Any] = []

    with recorded(folder.path, trouble):
        """Trials run."""

    (found,) = trouble
    assert (found.code, found.is_error) == ("LF740", False)
    assert "127.0.0.1" in found.message
    assert (folder.path / "report.html").is_file()
    # and a record that hangs is given up
    late = Recorder(folder.path).end(INTERRUPTED, patience=0.0)
    assert late is not None
    assert "it took too long" in late.message


def test_the_drivers_half_imports_no_mlflow() -> None:
    code = "import sys, llmforge.sweep.driver; assert 'mlflow' not in sys.modules, 'mlflow'"
    subprocess.run([sys.executable, "-c", code], check=True)
