"""What stands in MLflow after a run: once, whole, and without weights or secrets."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.journal import Journal
from llmforge.run.status import Status
from llmforge.track.address import absolute_uri, artifact_location, public
from llmforge.track.record import LONGEST_VALUE, MlflowRecord, parameters
from llmforge.track.store import create_database

MakeRun = Callable[[Plan], RunFolder]


def stored(plan: Plan, run: RunFolder) -> Any:
    return client(plan).get_run(run.read_json("mlflow.json")["run_id"])


def client(plan: Plan) -> Any:
    from mlflow.tracking import MlflowClient

    return MlflowClient(plan.settings["tracking"]["uri"])


def points(plan: Plan, run: RunFolder, key: str) -> list[tuple[int, float]]:
    run_id = run.read_json("mlflow.json")["run_id"]
    return [(m.step, m.value) for m in client(plan).get_metric_history(run_id, key)]


def artifacts(plan: Plan, run: RunFolder) -> set[str]:
    run_id = run.read_json("mlflow.json")["run_id"]
    top = client(plan).list_artifacts(run_id)
    below = [f for d in top if d.is_dir for f in client(plan).list_artifacts(run_id, d.path)]
    return {f.path for f in (*top, *below) if not f.is_dir}


def test_a_run_from_start_to_end(plan: Plan, make_run: MakeRun, work: Path) -> None:
    run = make_run(plan)
    record = MlflowRecord(plan, run)
    record.open()
    assert stored(plan, run).info.status == "RUNNING"
    run.model.mkdir()
    (run.model / "model.safetensors").write_bytes(b"weights")
    run.write_json("manifest.json", {"files": {}})
    run.write_json("result.json", {"steps": 10})
    run.set_status(Status.FINISHED)
    record.close(Status.FINISHED)

    found = stored(plan, run)
    assert found.info.status == "FINISHED"
    assert found.info.run_name == plan.run_id
    assert found.data.params["model.layers"] == "1"
    assert found.data.params["optimizer.betas"] == "[0.9, 0.95]"
    assert found.data.params["checkpoint.max_shard_size"] == "5GB"
    tags = found.data.tags
    assert tags["llmforge.fingerprint"] == plan.fingerprint
    assert tags["llmforge.stage.train"] == plan.stages["train"]
    assert tags["version.torch"]
    assert tags["llmforge.model"] == str(run.model)
    assert points(plan, run, "train_loss") == [(step, 10.0 - step) for step in range(1, 11)]
    assert artifacts(plan, run) == {
        *("plan.json", "origins.json", "environment.json", "log.txt", "result.json"),
        "model/location.json",
    }
    assert found.info.artifact_uri.startswith((work / "mlartifacts").as_uri())
    assert not list((work / "mlartifacts").rglob("*.safetensors"))


def test_a_resumed_run_is_one_run_without_double_points(plan: Plan, make_run: MakeRun) -> None:
    run = make_run(plan)
    first = MlflowRecord(plan, run)
    first.open()
    first.metrics()
    first.close(Status.INTERRUPTED)
    assert stored(plan, run).info.status == "KILLED"

    journal = Journal(run.journal)
    journal.attempt(2, 8)  # steps 9 and 10 are run again
    for step in range(9, 13):
        journal.append({"train_loss": 10.0 - step}, step)
    changed = replace(plan, settings={**plan.settings, "name": "renamed"})
    second = MlflowRecord(changed, run)
    second.open()
    assert stored(plan, run).info.status == "RUNNING"
    second.close(Status.FINISHED)

    assert second.run_id == first.run_id
    assert [step for step, _ in points(plan, run, "train_loss")] == list(range(1, 13))
    found = stored(plan, run)
    assert found.data.params["name"] == "tiny"  # MLflow keeps the first value
    assert found.data.tags["llmforge.changed.name"] == "renamed"


def test_what_fails_on_the_way_is_sent_again(
    plan: Plan, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(plan)
    record = MlflowRecord(plan, run)
    record.open()
    send = record._client.log_batch

    def broken(*_: Any, **__: Any) -> None:
        raise OSError("the network is down")

    monkeypatch.setattr(record._client, "log_batch", broken)
    with pytest.raises(OSError, match="down"):
        record.metrics()
    assert record.pending
    monkeypatch.setattr(record._client, "log_batch", send)
    record.metrics()
    assert not record.pending
    assert len(points(plan, run, "train_loss")) == 10


def test_thousands_of_points_in_batches(plan: Plan, make_run: MakeRun) -> None:
    run = make_run(plan)
    journal = Journal(run.journal)
    for step in range(11, 1201):
        journal.append({"train_loss": 0.0, "grad_norm": 1.0, "learning_rate": 0.1}, step)
    record = MlflowRecord(plan, run)
    record.open()
    record.metrics()
    assert len(points(plan, run, "train_loss")) == 1200


def test_numbers_that_are_none_are_kept(plan: Plan, make_run: MakeRun) -> None:
    run = make_run(plan)
    Journal(run.journal).append({"train_loss": float("nan")}, 11)
    record = MlflowRecord(plan, run)
    record.open()
    record.metrics()
    step, value = points(plan, run, "train_loss")[-1]
    assert step == 11
    assert value != value


def test_a_record_that_was_deleted_is_made_anew(plan: Plan, make_run: MakeRun) -> None:
    run = make_run(plan)
    first = MlflowRecord(plan, run)
    first.open()
    first.metrics()
    first._client.delete_run(first.run_id)
    second = MlflowRecord(plan, run)
    second.open()
    second.metrics()
    assert second.run_id != first.run_id
    assert len(points(plan, run, "train_loss")) == 10


def test_another_database_gets_a_record_of_its_own(
    plan: Plan, make_run: MakeRun, work: Path
) -> None:
    run = make_run(plan)
    first = MlflowRecord(plan, run)
    first.open()
    tracking = {**plan.settings["tracking"], "uri": f"sqlite:///{work}/other.db"}
    other = replace(plan, settings={**plan.settings, "tracking": tracking})
    second = MlflowRecord(other, run)
    second.open()
    second.close(Status.FINISHED)
    assert len(points(other, run, "train_loss")) == 10


@pytest.mark.parametrize("length", [499, 500, 501, 100_000])
def test_long_parameters_are_shortened_never_refused(length: int) -> None:
    value = "x" * length
    ((key, text),) = parameters({"data": {"train": value}})
    assert key == "data.train"
    assert len(text) <= LONGEST_VALUE
    if length > LONGEST_VALUE:
        assert f"{length} characters, sha256" in text
    else:
        assert text == value


def test_hundreds_of_parameters_and_a_long_one(plan: Plan, make_run: MakeRun) -> None:
    many = {f"key_{number}": number for number in range(250)}
    files = [f"part-{number:05}.jsonl" for number in range(1000)]
    wide = replace(plan, settings={**plan.settings, "extra": {**many, "files": files}})
    run = make_run(plan)
    MlflowRecord(wide, run).open()
    params = stored(plan, run).data.params
    assert params["extra.key_249"] == "249"
    assert params["extra.files"].startswith('["part-00000.jsonl"')


def test_two_processes_may_create_one_database(plan: Plan, make_run: MakeRun) -> None:
    make_run(plan)
    code = (
        "import sys\n"
        "from llmforge.run.folder import RunFolder\n"
        "from llmforge.track.record import MlflowRecord\n"
        "run = RunFolder.open(sys.argv[1])\n"
        "record = MlflowRecord(run.plan(), run)\n"
        "record.uri, record.experiment = sys.argv[2], sys.argv[3]\n"
        "record._remember = lambda: None\n"
        "record.open()\n"
    )
    fresh = plan.settings["tracking"]["uri"].replace("mlflow.db", "raced.db")
    arguments = [str(plan.run_folder), fresh, "raced"]
    both = [subprocess.Popen([sys.executable, "-c", code, *arguments]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    from mlflow.tracking import MlflowClient

    found = MlflowClient(fresh)
    experiment = found.get_experiment_by_name("raced")
    assert len(found.search_runs([experiment.experiment_id])) == 2


def test_a_database_is_made_whole_or_not_at_all(work: Path) -> None:
    code = (
        "import sys\n"
        "from llmforge.track.store import create_database\n"
        "import mlflow.store.tracking.sqlalchemy_store\n"
        "print('go', flush=True)\n"
        "create_database(sys.argv[1])\n"
    )
    uri = f"sqlite:///{work}/killed.db"
    maker = subprocess.Popen([sys.executable, "-c", code, uri], stdout=subprocess.PIPE)
    assert maker.stdout
    maker.stdout.readline()
    while not list(work.glob(".killed.db.*.tmp")):
        time.sleep(0.01)
    time.sleep(0.2)  # in the middle of some hundred tables
    maker.kill()
    maker.wait()
    assert not (work / "killed.db").exists()
    create_database(uri)
    assert [path.name for path in work.iterdir() if "killed" in path.name] == ["killed.db"]
    from mlflow.tracking import MlflowClient

    assert [e.name for e in MlflowClient(uri).search_experiments()] == ["Default"]


def test_addresses(work: Path) -> None:
    assert absolute_uri("sqlite:///mlflow.db") == f"sqlite:///{work}/mlflow.db"
    assert absolute_uri("sqlite:////x/y.db") == "sqlite:////x/y.db"
    assert absolute_uri("http://h:5000") == "http://h:5000"
    assert public("postgresql://me:secret@db:5432/x") == "postgresql://db:5432/x"
    assert public("sqlite:///a.db") == "sqlite:///a.db"
    assert artifact_location("http://h", "x") is None
    place = artifact_location("sqlite:////x/y.db", "my runs/é")
    assert place == "file:///x/mlartifacts/my_runs_%C3%A9"


def test_the_folder_says_where_the_record_is(plan: Plan, make_run: MakeRun) -> None:
    run = make_run(plan)
    record = MlflowRecord(plan, run)
    record.open()
    state = json.loads((run.path / "mlflow.json").read_text())
    assert state["run_id"] == record.run_id
    assert state["closed"] is None
    record.close(Status.FAILED)
    assert run.read_json("mlflow.json")["closed"] == "FAILED"
