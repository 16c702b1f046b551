"""Complete a run's record from its folder: `python -m llmforge.track.sync FOLDER`.

In: a run folder whose worker is gone. Out: its record closed with the run's status, with all that
the worker could not send. The driver starts it, in a process of its own, when a worker was killed
or MLflow was away, so that the driver never imports MLflow. Exit code 0: the record is complete.
"""

from __future__ import annotations

import subprocess
import sys

from llmforge import registry
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.track.protocol import Tracker

PATIENCE = 20.0
"""Seconds the driver waits: importing MLflow and opening a database take up to five."""


def is_complete(run: RunFolder) -> bool:
    """Does the record tell the run's end, as far as the folder knows?"""
    status = run.status()
    if run.plan().settings["tracking"]["kind"] == "none" or status is Status.CREATED:
        return True
    return bool((run.read_json("mlflow.json") or {}).get("closed") == status.value)


def complete(run: RunFolder, environment: dict[str, str], patience: float = PATIENCE) -> bool:
    """Complete the record in a process of its own; False if that did not work in time."""
    command = [sys.executable, "-m", "llmforge.track.sync", str(run.path)]
    with run.log().open("ab") as log:
        try:
            done = subprocess.run(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                timeout=patience,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == 0


def tracker_of(run: RunFolder) -> Tracker:
    """The tracker that the run's plan names."""
    kind = run.plan().spec.tracking.kind
    found: Tracker = registry.component("tracking", kind).load_builder()()
    return found


def main(argv: list[str]) -> int:
    """See the module."""
    run = RunFolder.open(argv[0])
    tracker = tracker_of(run)
    tracker.start(run.plan(), run)
    tracker.finish(run.status(), run.result())
    return 0 if is_complete(run) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
