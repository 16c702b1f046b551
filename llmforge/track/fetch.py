"""Get a run's record back from MLflow: `python -m llmforge.track.fetch URI RUN_ID FOLDER`.

In: the address of MLflow, the id of a run, a folder. Out: in the folder what a run folder has of
it: `plan.json` and the other small files, and `metrics.jsonl` made of the metrics' histories. The
driver starts it in a process of its own (`fetched`), so that it never imports MLflow.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from llmforge.run.journal import Journal
from llmforge.track.address import absolute_uri
from llmforge.track.store import connect

FILES = ("plan.json", "origins.json", "environment.json", "result.json", "samples.json")
PATIENCE = 120.0
"""Seconds for the whole: MLflow is imported, a few small files are copied."""


class NotFetched(LookupError):
    """MLflow has no such run, no plan in it, or does not answer."""


def fetched(uri: str, run_id: str, target: Path, token: str | None = None) -> Path:
    """The folder with the record, got by a process of its own.

    Raises:
        NotFetched: it could not be had; says why.
    """
    command = [sys.executable, "-m", "llmforge.track.fetch", absolute_uri(uri), run_id, str(target)]
    environment = os.environ | {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    if token:
        environment["MLFLOW_TRACKING_TOKEN"] = token
    target.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise NotFetched("MLflow does not answer") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NotFetched(lines[-1][:300])
    return target


def fetch(client: Any, run_id: str, target: Path) -> None:
    """Write the record; raises what MLflow raises, and `LookupError` where there is no plan."""
    there = {one.path for one in client.list_artifacts(run_id)}
    if "plan.json" not in there:
        raise LookupError(f"run {run_id} has no plan.json: it was not recorded by llmforge")
    for name in FILES:
        if name in there:
            client.download_artifacts(run_id, name, str(target))
    points: list[tuple[int, int, str, float]] = []
    for name in client.get_run(run_id).data.metrics:
        history = client.get_metric_history(run_id, name)
        points += [(one.timestamp, one.step, name, one.value) for one in history]
    file = target / "metrics.jsonl"
    file.unlink(missing_ok=True)
    journal = Journal(file)
    for _, step, name, value in sorted(points):
        journal.append({name: value}, step)
    journal.close()


def main(argv: list[str]) -> int:
    """See the module."""
    uri, run_id, folder = argv
    try:
        fetch(connect(uri, None), run_id, Path(folder))
    except Exception as error:  # MLflow's stores raise anything; the last line is told
        print(f"{type(error).__name__}: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
