"""The driver's side of a chain's record in MLflow, which never stops the chain.

In: a plan, the ledger of its chain. Out: a process that records (`track/chain.py`), told when the
ledger has changed. It lives as long as the driver holds its stdin, so a driver that is killed
leaves nothing running in MLflow. Imports no MLflow.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run import environment
from llmforge.run.chain.ledger import Ledger

PATIENCE = 60.0
"""Seconds the end waits: what is left to send takes one or two."""

_LOG = "chain/record.log"


class Recorder:
    """Starts the process with the first news, and ends it with the chain."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan, self._ledger = plan, ledger
        self._process: subprocess.Popen[str] | None = None
        self.found: tuple[Diagnostic, ...] = ()
        """What went wrong, once the chain has ended."""

    def news(self) -> None:
        """The ledger has changed; returns at once."""
        if self._plan.settings["tracking"]["kind"] == "none":
            return
        if self._process is None:
            self._process = self._start()
        assert self._process.stdin is not None  # noqa: S101 - it was asked for
        try:
            self._process.stdin.write("news\n")
            self._process.stdin.flush()
        except OSError:
            return  # it is gone; the end says why

    def end(self) -> None:
        """Wait until everything is recorded; LF983 in `found` where that did not work."""
        if self._process is None:
            return
        try:
            self._process.communicate(timeout=PATIENCE)
            why = None if self._process.returncode == 0 else self._said()
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            why = "it took too long"
        except OSError:
            self._process.wait()
            why = self._said()
        if why is not None:
            self.found = (self._trouble(why),)

    def _start(self) -> subprocess.Popen[str]:
        environ = environment.worker_environment(self._plan, 1, quiet=True)
        environ["PYTHONWARNINGS"] = "ignore"
        folder = self._ledger.run.path
        log = folder / _LOG
        log.parent.mkdir(exist_ok=True)
        with log.open("wb") as stream:
            return subprocess.Popen(
                [sys.executable, "-m", "llmforge.track.chain", str(folder)],
                env=environ,
                text=True,
                stdin=subprocess.PIPE,
                stdout=stream,
                stderr=stream,
                start_new_session=True,  # Ctrl-C is the driver's business
            )

    def _said(self) -> str:
        log: Path = self._ledger.run.path / _LOG
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
        return environment.scrub(lines[-1], self._plan) if lines else "it ended without a word"

    def _trouble(self, said: str) -> Diagnostic:
        return Diagnostic(
            "LF983",
            f"the chain's record is not complete: {' '.join(said.split())[:300]}",
            severity=Severity.WARNING,
            key="tracking.uri",
            origins=self._plan.origins.chain("tracking.uri"),
            notes=("what the stages made is not affected, and the same command records it",),
            hint="tracking=none",
        )


@contextmanager
def recorded(plan: Plan, ledger: Ledger) -> Iterator[Recorder]:
    """Record a chain while it is driven."""
    recorder = Recorder(plan, ledger)
    try:
        yield recorder
    finally:
        recorder.end()
