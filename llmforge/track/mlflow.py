"""The MLflow tracker: a thread that sends the run's journal while the run goes on.

In: a run folder that fills. Out: its record in MLflow (see `record.py`). The step path does
nothing but wake the thread. When MLflow fails, one warning (LF807) is kept, the thread tries again
for as long as the run lasts, and what it missed is sent when MLflow is back; `finish` waits for a
bounded time, and the next command on the run sends the rest.

Importing this module does not import MLflow; the thread does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run import environment
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.track.address import public
from llmforge.track.following import ModelFollower
from llmforge.track.record import MlflowRecord

logger = logging.getLogger(__name__)

INTERVAL = 1.0
"""Seconds between two sendings: what a killed process leaves to its driver."""
LONGEST_PAUSE = 30.0
"""Seconds between two attempts while MLflow is away; starts at one and doubles."""
PATIENCE = 10.0
"""Seconds `finish` waits for what is pending."""


class MlflowTracker:
    """Sends in the background."""

    def __init__(self, patience: float = PATIENCE) -> None:
        self._patience = patience
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._opened = False
        self._ending = Status.FINISHED
        self._deadline = float("inf")
        self._files: list[tuple[Path, str]] = []
        self._warned = False

    def start(self, plan: Plan, run: RunFolder) -> None:
        """Open the record in the background; returns at once."""
        self._plan, self._run = plan, run
        self._record = MlflowRecord(plan, run)
        self._models = ModelFollower(plan, run)
        self._thread = threading.Thread(target=self._work, name="mlflow", daemon=True)
        self._thread.start()

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """The journal has them; wake the thread."""
        del values, step
        self._wake.set()

    def artifact(self, path: Path, name: str) -> None:
        """Keep a copy of a file that is not among the run folder's usual ones."""
        self._files.append((path, name))
        self._wake.set()

    def finish(self, status: Status, result: Mapping[str, Any] | None) -> None:
        """Send the rest and close the record; gives up after `PATIENCE` seconds."""
        del result  # it stands in the run folder, from where it is sent
        if self._thread is None:
            return
        self._ending = status
        self._deadline = time.monotonic() + self._patience
        self._closing.set()
        self._wake.set()
        self._thread.join(self._patience + 1.0)
        while self._thread.is_alive() and self._models.busy:
            self._thread.join(1.0)  # an upload that goes on is waited for
        if self._thread.is_alive() or not self._closed():
            self._warn("the record is not complete", "the same command again sends the rest")

    def describe(self) -> str:
        """Experiment and database, or the run's page on a server."""
        return self._record.address if self._thread else ""

    def _closed(self) -> bool:
        state = self._run.read_json("mlflow.json") or {}
        return bool(state.get("closed") == self._ending.value)

    def _work(self) -> None:
        """Send, wait for news, send; after a failure pause longer each time; until closed."""
        pause = INTERVAL
        while True:
            closing = self._closing.is_set()  # asked first: what comes later is sent next time
            try:
                self._send()
                if closing:
                    self._record.close(self._ending)
                    self._models.finish(self._record.run_id, self._deadline, INTERVAL)
                    return
                pause = INTERVAL
                self._wake.wait()
                self._wake.clear()
            except Exception as error:
                self._warn(f"{type(error).__name__}: {error}", "training goes on without it")
                if closing and time.monotonic() >= self._deadline:
                    return
                pause = INTERVAL if closing else min(2 * pause, LONGEST_PAUSE)
                if closing:
                    time.sleep(pause)
            self._closing.wait(pause)

    def _send(self) -> None:
        if not self._opened:
            self._record.open()
            self._opened = True
        self._record.metrics()
        while self._files:
            self._record.artifact(*self._files[0])
            del self._files[0]
        self._models.follow(self._record.run_id)

    def _warn(self, trouble: str, consequence: str) -> None:
        """Once a run: the second failure tells a person nothing new."""
        if self._warned:
            return
        self._warned = True
        text = " ".join(environment.scrub(trouble, self._plan).split())[:300]
        diagnostic = Diagnostic(
            "LF807",
            f"MLflow at {public(self._record.uri)} does not take the record: {text}",
            severity=Severity.WARNING,
            key="tracking.uri",
            origins=self._plan.origins.chain("tracking.uri"),
            notes=(consequence, "every number stands in metrics.jsonl of the run folder"),
            hint="tracking=none",
        )
        logger.warning("%s: %s", diagnostic.code, diagnostic.message)
        self._run.warn(diagnostic.to_dict())
