"""A sweep on a real MLflow server that is stopped in the middle: training goes on, and what was
missed arrives later."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmforge.run.folder import RunFolder

_spec = importlib.util.spec_from_file_location(
    "llmforge_track_tracker", Path(__file__).parents[1] / "track" / "test_tracker.py"
)
assert _spec
assert _spec.loader
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)

until = _module.until
free_port = _module.free_port


@pytest.fixture
def server(work: Path, free_port: int) -> Iterator[Any]:
    found = _module.Server(work, free_port)
    found.start()
    yield found
    found.kill()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_server_stops_in_the_middle(
    server: Any, work: Path, tiny_overrides: tuple[str, ...]
) -> None:
    command = [
        *(sys.executable, "-m", "llmforge", "sweep", *tiny_overrides, "seed=1,2"),
        *(f"tracking.uri={server.uri}", "sweep.name=served", "trainer.log_every=1"),
    ]
    environment = os.environ | {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    }
    folder = work / "multirun" / "served"

    def first_offset() -> bool:
        return any(
            json.loads(file.read_text(encoding="utf-8")).get("offset")
            for file in folder.glob("*/mlflow.json")
        )

    process = subprocess.Popen(
        command,
        cwd=work,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: first_offset() or process.poll() is not None, 300)
        server.kill()
        _, err = process.communicate(timeout=600)
    finally:
        process.kill()
    assert process.returncode == 0, err
    assert "LF740" in err
    runs = [RunFolder(file.parent) for file in sorted(folder.glob("*/plan.json"))]
    assert [run.status().value for run in runs] == ["FINISHED"] * 2
    assert (folder / "report.html").is_file()
    before = {run.run_id: run.journal.read_bytes() for run in runs}

    server.start()
    done = subprocess.run(
        command, cwd=work, env=environment, capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "LF740" not in done.stderr
    assert {run.run_id: run.journal.read_bytes() for run in runs} == before  # nothing ran again
    from mlflow.tracking import MlflowClient

    client = MlflowClient(server.uri)
    parent = client.get_run(json.loads((folder / "mlflow.json").read_text())["run_id"])
    assert parent.info.status == "FINISHED"
    for run in runs:
        child = client.get_run(run.read_json("mlflow.json")["run_id"])
        assert (child.info.status, child.data.tags["mlflow.parentRunId"]) == (
            "FINISHED",
            parent.info.run_id,
        )
        steps = [one.step for one in client.get_metric_history(child.info.run_id, "train_loss")]
        assert steps == list(range(1, 13))
    assert {one.path for one in client.list_artifacts(parent.info.run_id)} >= {"report.html"}
