"""The tracker never stops a run: not slow, not away, not gone in the middle."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run.environment import worker_environment
from llmforge.run.folder import RunFolder
from llmforge.run.journal import Journal
from llmforge.run.status import Status
from llmforge.track.mlflow import MlflowTracker
from llmforge.track.protocol import NullTracker, Tracker
from llmforge.track.sync import complete, is_complete

MakeRun = Callable[[Plan], RunFolder]


def points(plan: Plan, run: RunFolder) -> list[int]:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(plan.settings["tracking"]["uri"])
    run_id = run.read_json("mlflow.json")["run_id"]
    return [m.step for m in client.get_metric_history(run_id, "train_loss")]


def status(plan: Plan, run: RunFolder) -> str:
    from mlflow.tracking import MlflowClient

    client = MlflowClient(plan.settings["tracking"]["uri"])
    return str(client.get_run(run.read_json("mlflow.json")["run_id"]).info.status)


def until(true: Callable[[], Any], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def test_both_trackers_keep_to_the_protocol() -> None:
    assert isinstance(NullTracker(), Tracker)
    assert isinstance(MlflowTracker(), Tracker)


def test_numbers_arrive_while_the_run_goes_on(plan: Plan, make_run: MakeRun) -> None:
    run = make_run(plan)
    tracker = MlflowTracker()
    tracker.start(plan, run)
    until(lambda: (run.read_json("mlflow.json") or {}).get("offset"))
    assert points(plan, run) == list(range(1, 11))
    Journal(run.journal).append({"train_loss": 0.1}, 11)
    tracker.metrics({"train_loss": 0.1}, 11)
    until(lambda: points(plan, run)[-1] == 11)
    extra = run.path / "notes.txt"
    extra.write_text("kept", encoding="utf-8")
    tracker.artifact(extra, "more/notes.txt")
    run.set_status(Status.FINISHED)
    tracker.finish(Status.FINISHED, {})
    assert status(plan, run) == "FINISHED"
    assert is_complete(run)
    assert run.record().warnings == ()
    assert "experiment `llmforge`" in tracker.describe()


def test_the_step_path_costs_microseconds(plan: Plan, make_run: MakeRun) -> None:
    run = make_run(plan)
    tracker = MlflowTracker()
    tracker.start(plan, run)
    until(lambda: run.read_json("mlflow.json"))
    journal = Journal(run.journal)
    times = []
    for step in range(11, 1011):
        began = time.perf_counter()
        values = {"train_loss": 1.0, "learning_rate": 1e-3, "grad_norm": 1.0}
        journal.append(values, step)
        tracker.metrics(values, step)
        times.append(time.perf_counter() - began)
        time.sleep(0.0005)
    tracker.finish(Status.FINISHED, None)
    assert points(plan, run) == list(range(1, 1011))
    # far below what asking the server would take
    assert statistics.median(times) < 500e-6


@pytest.fixture
def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A real MLflow server on loopback that can be killed and started again."""

    def __init__(self, folder: Path, port: int) -> None:
        self.uri = f"http://127.0.0.1:{port}"
        self._command = [
            *(sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1"),
            *("--port", str(port), "--workers", "1"),
            *("--backend-store-uri", f"sqlite:///{folder}/server.db"),
            *("--artifacts-destination", str(folder / "served")),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(
            self._command,
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ
            | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        until(self._answers, 90)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=1) as answer:  # noqa: S310 - our own server
                return bool(answer.status == 200)
        except OSError:
            return False

    def kill(self) -> None:
        if self._process:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None


@pytest.fixture
def server(
    work: Path, free_port: int, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    shutil.copy(empty_database, work / "server.db")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "5")
    found = Server(work, free_port)
    found.start()
    yield found
    found.kill()


def test_a_server_that_dies_and_comes_back(
    tiny: Callable[..., Plan], make_run: MakeRun, server: Server
) -> None:
    plan = tiny(f"tracking.uri={server.uri}")
    run = make_run(plan)
    tracker = MlflowTracker(patience=2.0)
    tracker.start(plan, run)
    until(lambda: (run.read_json("mlflow.json") or {}).get("offset"))
    assert server.uri in tracker.describe()

    server.kill()
    journal = Journal(run.journal)
    for step in range(11, 31):
        began = time.perf_counter()
        journal.append({"train_loss": 1.0}, step)
        tracker.metrics({"train_loss": 1.0}, step)
        assert time.perf_counter() - began < 1.0  # the server's patience is two seconds
    until(lambda: run.record().warnings)
    (warning,) = run.record().warnings
    assert warning["code"] == "LF807"
    assert server.uri in warning["message"]
    run.set_status(Status.FINISHED)
    began = time.monotonic()
    tracker.finish(Status.FINISHED, None)
    assert time.monotonic() - began < 15  # gives up
    assert not is_complete(run)

    server.start()
    assert complete(run, worker_environment(plan, 1), patience=60)
    assert status(plan, run) == "FINISHED"
    assert points(plan, run) == list(range(1, 31))  # everything, once


def test_a_server_that_was_never_there(
    tiny: Callable[..., Plan], make_run: MakeRun, free_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    plan = tiny(f"tracking.uri=http://127.0.0.1:{free_port}")
    run = make_run(plan)
    tracker = MlflowTracker(patience=1.0)
    tracker.start(plan, run)
    tracker.metrics({}, 1)
    until(lambda: run.record().warnings)
    tracker.finish(Status.FINISHED, None)
    assert len(run.record().warnings) == 1
    assert not is_complete(run)


def test_the_token_reaches_the_server_and_nothing_else(
    tiny: Callable[..., Plan], make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    import http.server
    import threading

    seen: list[str | None] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            self.send_error(403, "no entry")

        do_POST = do_GET  # noqa: N815 - the library's name

        def log_message(self, *_: Any) -> None:
            """Quiet."""

    fake = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=fake.serve_forever, daemon=True).start()
    monkeypatch.setenv("MY_TOKEN", "canary-5f3c")
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    place = f"tracking.uri=http://127.0.0.1:{fake.server_port}"
    plan = tiny(place, "tracking.token=env:MY_TOKEN")
    run = make_run(plan)
    tracker = MlflowTracker(patience=1.0)
    tracker.start(plan, run)
    until(lambda: run.record().warnings)
    tracker.finish(Status.FAILED, None)
    fake.shutdown()
    monkeypatch.delenv("MLFLOW_TRACKING_TOKEN", raising=False)
    assert "Bearer canary-5f3c" in seen
    for path in run.path.rglob("*"):
        if path.is_file():
            assert b"canary-5f3c" not in path.read_bytes(), path


def test_a_killed_run_is_closed_from_its_folder(plan: Plan, make_run: MakeRun) -> None:
    run = make_run(plan)
    run.set_status(Status.FAILED, pid=None, code="LF804", reason="killed by SIGKILL")
    assert not is_complete(run)
    assert complete(run, worker_environment(plan, 1), patience=60)
    assert status(plan, run) == "FAILED"
    assert points(plan, run) == list(range(1, 11))
