"""The driver's side of a sweep's record: when it is written, and that it never stops a sweep.

In: a sweep's folder that fills. Out: its page and its run in MLflow, kept up by a process of its
own (`report/record.py`): once trials are ready to start, now and then while they run, and a last
time when the sweep ends, is stopped, or is interrupted. A driver that is killed leaves the run in
MLflow as it is: the next one goes on with it, and whoever looks at runs before ends it (`settle`).
Imports no MLflow.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run import environment
from llmforge.sweep.folder import SweepFolder
from llmforge.track.parent import FILE, read_state

PATIENCE = 180.0
"""Seconds for the last record: MLflow is imported in seconds, and tried again when it is away."""
PAUSE = 60.0
"""Seconds between two records while trials run, at least."""
SHARE = 20.0
"""A record that took a second is not written again for so many: a twentieth of the time at most."""

FINISHED, INTERRUPTED = "finished", "interrupted"
"""How a sweep ends, as `report/record.py` is told: what stopped it stands in its folder."""

_LOG = "record.log"
"""In the sweep's folder: what the processes said."""


class Recorder:
    """Starts the processes, one at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._began = 0.0
        self._next = 0.0
        self.interrupted = False
        """Somebody asked the sweep to stop."""

    def news(self) -> None:
        """Something changed; returns at once. Does nothing while no trial has a folder."""
        now = time.monotonic()
        if self._process is not None:
            if self._process.poll() is None:
                return
            self._next = max(self._next, self._began + SHARE * (now - self._began))
            self._process = None
        if now < self._next:
            return
        self._next = now + PAUSE
        plan = self._plan()
        if plan is not None and plan.settings["tracking"]["kind"] != "none":
            self._began = now
            self._process = self._start(plan)

    def leave(self) -> bool:
        """Write the last record of an interrupted sweep in a process that nobody waits for; False
        where there is nothing to record."""
        plan = self._plan()
        if plan is None or plan.settings["tracking"]["kind"] == "none":
            return False
        self._start(plan, "--ended", INTERRUPTED)
        return True

    def end(self, how: str = FINISHED, patience: float = PATIENCE) -> Diagnostic | None:
        """Write the last record and wait for it; LF740 when that did not work."""
        plan = self._plan()
        untouched = self._process is None and not self._next
        if plan is None or (untouched and self._complete()):
            return None
        if plan.settings["tracking"]["kind"] == "none":
            return self._page()
        deadline = time.monotonic() + patience
        if self._process is not None:
            _wait(self._process, deadline)
        code = _wait(self._start(plan, "--ended", how), deadline)
        if code == 0:
            return None
        lines = (self._folder / _LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        said = environment.scrub(lines[-1], plan) if lines else f"exit code {code}"
        return self._trouble(said if code is not None else "it took too long")

    def _page(self) -> Diagnostic | None:
        """Nothing but the page: that needs no process of its own."""
        from llmforge.report.sweep_page import write_sweep_page

        try:
            write_sweep_page(self._folder)
        except Exception as error:  # whatever is wrong with a page, the sweep has its results
            return self._trouble(f"{type(error).__name__}: {error}")
        return None

    def _start(self, plan: Plan, *arguments: str) -> subprocess.Popen[bytes]:
        environ = environment.worker_environment(plan, 1, quiet=True) | {"PYTHONWARNINGS": "ignore"}
        command = [sys.executable, "-m", "llmforge.report.record", str(self._folder), *arguments]
        with (self._folder / _LOG).open("wb") as log:
            return subprocess.Popen(
                command,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C is the driver's business
            )

    def _complete(self) -> bool:
        """Was all of it recorded before? Nothing was started since."""
        closed = read_state(self._folder).get("closed")
        return closed == "FINISHED" and (self._folder / "report.html").is_file()

    def _plan(self) -> Plan | None:
        """The plan of a trial: where all of them are recorded; None while there is none."""
        file = next(iter(sorted(self._folder.glob("*/plan.json"))), None)
        return Plan.load(file) if file is not None else None

    def _trouble(self, said: str) -> Diagnostic:
        return Diagnostic(
            "LF740",
            f"the sweep's record is not complete: {' '.join(said.split())[:300]}",
            severity=Severity.WARNING,
            key="tracking.uri",
            notes=(
                f"the trials and {self._folder / 'points.jsonl'} are not affected",
                "the same command again completes it, and runs nothing twice",
            ),
            hint="tracking=none",
        )


def settle_all(sweeps: Path) -> list[str]:
    """End the runs in MLflow of sweeps whose drivers are gone; a line for each, to be told.

    Args:
        sweeps: parent of the sweeps' folders.
    """
    found = []
    for file in sorted(sweeps.glob(f"*/{FILE}")):
        name = file.parent.name
        try:
            if settle(file.parent):
                found.append(f"{name}: its driver is gone, and its run in MLflow is being ended")
        except (OSError, ValueError) as error:  # a folder of somebody else, a broken file in it
            found.append(f"{name}: its run in MLflow stays open: {error}")
    return found


def settle(folder: Path) -> bool:
    """End the run in MLflow of a sweep whose driver is gone without having done so.

    Returns at once; True when a process was started for it. One that failed, since MLflow is away,
    is started again by whoever looks next, after `PAUSE`.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: a file in it is not what it should be.
    """
    state = read_state(folder)
    if not state.get("run_id") or state.get("closed") or SweepFolder(folder).is_driven:
        return False
    log = folder / _LOG
    if log.is_file() and time.time() - log.stat().st_mtime < PAUSE:
        return False
    return Recorder(folder).leave()


def _wait(process: subprocess.Popen[bytes], deadline: float) -> int | None:
    """The exit code; None, and the process is gone, when it took too long."""
    try:
        return process.wait(max(1.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        return None


@contextmanager
def recorded(folder: Path, found: list[Diagnostic]) -> Iterator[Recorder]:
    """Record a sweep while it is driven; what went wrong with that is added to `found`."""
    recorder = Recorder(folder)
    try:
        yield recorder
    except BaseException:
        recorder.end(INTERRUPTED)
        raise
    trouble = recorder.end(INTERRUPTED if recorder.interrupted else FINISHED)
    if trouble is not None:
        found.append(trouble)
