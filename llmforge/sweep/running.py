"""Trials on their way through a launcher: in batches, or one by one as places become free.

In: points that are to run, and `launch`, which takes the overrides of some jobs and comes back when
they are done (a Hydra launcher's `launch`). Out: what came of each trial, in `Swept`, told to the
ledger and the terminal. Which points those are is decided elsewhere (`driver.py`, `search.py`).

A launcher has one call, which ends with its last job, so in a batch the slowest trial holds up the
others. Where a launcher starts processes on this machine, it is called once for each trial instead,
from as many threads as trials run side by side: the next one starts when one ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmforge import render
from llmforge.diagnostics import ConfigRefused, Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run.folder import RunBusy, RunFolder
from llmforge.run.status import Status
from llmforge.sweep.folder import SweepFolder, unwritable
from llmforge.sweep.jobs import Launch, job_override, place_override
from llmforge.sweep.ledger import Ledger
from llmforge.sweep.preflight import Point, plan_of
from llmforge.sweep.stopping import Asked, asked_to_stop
from llmforge.sweep.swept import Swept
from llmforge.sweep.trial import Trial, trial_of

_LEFT_BEHIND = 60.0
"""Seconds in which a trial whose job died saves and ends."""


@dataclass
class Running:
    """Runs points of a sweep, of a grid as of a search."""

    swept: Swept
    folder: SweepFolder
    launch: Launch
    tell: Callable[[Trial], None]
    news: Callable[[], None]
    """Called when trials are about to start."""
    watch: EqualFailures
    ledger: Ledger
    started: int = 0

    def run(self, batch: Sequence[Point]) -> bool:
        """Run some points in one call of the launcher; False when no other is to be started.

        Raises:
            ConfigRefused: a point is refused by now, or a search's storage fails.
        """
        ready = [self._begin(point) for point in batch]
        asked = Asked(self.folder)
        failed: Diagnostic | None = None
        with asked_to_stop(asked):
            try:
                self.launch([[job_override(path)] for path in ready], self._number(len(ready)))
            except Exception as error:  # launchers raise whatever their libraries do
                failed = _launcher_failed(error)
        self._end(ready, failed, asked)
        return self.goes_on

    def stream(self, following: Callable[[], Point | None], places: int) -> None:
        """Run points side by side, each in a call of the launcher of its own, until there is none
        left or no other is to be started.

        Args:
            following: the next point, when a place is free; None while there is none.
            places: of this machine, each with its share of it (`sharing.py`).

        Raises:
            ConfigRefused: as `run`; the trials at work are waited for first.
        """
        asked, free = Asked(self.folder), list(range(places))
        at_work: dict[Future[Sequence[Any]], tuple[Path, int]] = {}
        trouble: ConfigRefused | None = None
        with asked_to_stop(asked), ThreadPoolExecutor(places, "sweep-place") as pool:
            while True:
                try:
                    while free and trouble is None and self.goes_on and asked.by is None:
                        point = following()
                        if point is None:
                            break
                        path = self._begin(point)
                        job = [job_override(path), place_override(free[0], places)]
                        work = pool.submit(self.launch, [job], self._number(1))
                        at_work[work] = path, free.pop(0)
                except ConfigRefused as found:
                    trouble = found
                if not at_work:
                    break
                for work in wait(at_work, return_when=FIRST_COMPLETED).done:
                    path, place = at_work.pop(work)
                    free.append(place)
                    error = work.exception()
                    failed = _launcher_failed(error) if error is not None else None
                    try:
                        self._end([path], failed, asked)
                    except ConfigRefused as found:
                        trouble = trouble or found
        if trouble is not None:
            raise trouble

    @property
    def goes_on(self) -> bool:
        """May another trial be started?"""
        return self.swept.stopped is None and not self.swept.interrupted

    def _begin(self, point: Point) -> Path:
        """The run folder of a point that is about to start.

        Raises:
            ConfigRefused: as `run`.
        """
        point, plan = _planned(self.swept, point)
        place = self.folder.path / plan.run_id
        if place.is_symlink() and not place.exists():
            place.unlink()  # the run that it was a link to is gone
        try:
            run = RunFolder.create(plan)
        except OSError as error:
            raise ConfigRefused([unwritable(self.folder.path, error)]) from error
        self.ledger.begin(point, run)
        _tell_held(run)
        return run.path

    def _number(self, many: int) -> int:
        """Number of the first of some jobs that are started now."""
        self.news()
        first, self.started = self.started, self.started + many
        return first

    def _end(self, ready: Sequence[Path], failed: Diagnostic | None, asked: Asked) -> None:
        """What came of trials whose call of the launcher is over.

        When the launcher, and not a trial, failed (LF732), it stands in the trials' folders all the
        same; a launcher that did not even start one would not start the next, and stops the sweep.
        """
        if asked.by is not None:
            self.swept.interrupted = True
        elif failed is not None:
            self._launcher_broke(ready, failed)
        found = [trial_of(path) for path in ready]
        for trial in found:
            self.swept.trials[trial.run_id] = trial
            self.tell(trial)
            self.swept.stopped = self.swept.stopped or self.watch.add(trial)
        if self.swept.stopped is not None and asked.by is None:
            self.folder.stop(self.swept.stopped.to_dict())
        for trial in found:
            self.ledger.end(trial)
        if failed is None and any(t.status == Status.INTERRUPTED.value for t in found):
            self.swept.interrupted = True

    def _launcher_broke(self, ready: Sequence[Path], failed: Diagnostic) -> None:
        for path in ready:
            _wait_for(RunFolder(path))
        if any(RunFolder(path).status() is Status.CREATED for path in ready):
            self.swept.stopped = self.swept.stopped or failed
        else:
            self.swept.warnings.append(replace(failed, severity=Severity.WARNING))


class EqualFailures:
    """Counts trials in a row that fail for one reason."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._row: list[Trial] = []

    def add(self, trial: Trial) -> Diagnostic | None:
        """LF716 once the row is long enough."""
        if not trial.is_failed:
            if trial.is_over:
                self._row = []
            return None
        if self._row and self._row[-1].code != trial.code:
            self._row = []
        self._row.append(trial)
        if len(self._row) < self._limit:
            return None
        return Diagnostic(
            "LF716",
            f"{self._limit} trials in a row failed for the same reason: {trial.reason}",
            key="sweep.equal_failures",
            notes=(
                f"code {trial.code}; the last of them is {trial.run_id}",
                "the same command goes on with what is missing",
            ),
            hint=f"llmforge explain {trial.code}" if trial.code else None,
        )


def _planned(swept: Swept, point: Point) -> tuple[Point, Plan]:
    """The plan of a point as it is now: a data file may have changed since it was looked at, and
    then the point is another run."""
    plan = plan_of(swept.definition, point)
    if plan.run_id != point.run_id:
        place = swept.points.index(point)
        point = replace(point, run_id=plan.run_id, fingerprint=plan.fingerprint)
        swept.points[place] = point
    return point, plan


def _tell_held(run: RunFolder) -> None:
    """A job of an earlier driver may still be at work."""
    record = run.record()
    if record.status is Status.RUNNING:
        who = f"process {record.pid}" if record.pid else "another process"
        render.emit(f"{run.run_id} is still worked on by {who}: waiting for it")


def _wait_for(run: RunFolder) -> None:
    """Until the worker of a job that died has saved and ended."""
    try:
        with run.lock(_LEFT_BEHIND):
            return
    except RunBusy:
        return  # its status says RUNNING, and the next driver waits for it


def _launcher_failed(error: BaseException) -> Diagnostic:
    said = " ".join(str(error).split())[:300]
    return Diagnostic(
        "LF732",
        f"the launcher failed: {type(error).__name__}: {said}",
        key="hydra/launcher",
        notes=("trials keep what they have; the same command goes on with what is missing",),
        hint="hydra/launcher=basic",
    )
