"""The driver of a sweep: what is to run, in batches, through whatever launches jobs.

In: a definition, its points, and `launch`, which takes the overrides of some jobs and comes back
when they are done (a Hydra launcher's `launch`). Out: `Swept`: every point with what came of it.
Which job a launcher runs, and with what share of the machine, is told by overrides (`jobs.py`).

The driver keeps nothing in memory that the run folders do not say: killed and started again, it
looks at the folders and goes on. It never raises for a trial.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmforge import render
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run.folder import RunBusy, RunFolder
from llmforge.run.status import Status
from llmforge.sweep.definition import Definition
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.jobs import Launch, job_override
from llmforge.sweep.ledger import Ledger, ledger_of_grid
from llmforge.sweep.preflight import Point, State, plan_of
from llmforge.sweep.recorder import recorded
from llmforge.sweep.stopping import Asked, asked_to_stop
from llmforge.sweep.trial import Trial, trial_of

_LEFT_BEHIND = 60.0
"""Seconds in which a trial whose job died saves and ends."""


@dataclass
class Swept:
    """A sweep after its last trial."""

    definition: Definition
    points: list[Point]
    trials: dict[str, Trial] = field(default_factory=dict)
    """Run id -> what came of it."""
    stopped: Diagnostic | None = None
    """Why trials were left out."""
    warnings: list[Diagnostic] = field(default_factory=list)
    """What did not stop the sweep."""
    interrupted: bool = False
    """Somebody asked it, or one of its trials, to stop."""

    @property
    def best(self) -> Trial | None:
        """The finished trial with the best objective; of equal ones the first."""
        finished = [
            trial
            for point in self.points
            if point.run_id and (trial := self.trials.get(point.run_id)) is not None
            if trial.is_finished and self.definition.objective in trial.figures
        ]
        choose = min if self.definition.direction == "minimize" else max
        return choose(
            finished, key=lambda trial: trial.figures[self.definition.objective], default=None
        )

    @property
    def front(self) -> list[Trial]:
        """Finished trials that no other one beats in all objectives (the Pareto front)."""
        sought = self.definition.objectives
        placed: dict[str, tuple[Trial, list[float]]] = {}
        for trial in self.trials.values():
            values = [trial.figures.get(one.name) for one in sought]
            if trial.is_finished and all(value is not None for value in values):
                signed = [o.sign * float(v or 0) for o, v in zip(sought, values, strict=True)]
                placed[trial.run_id] = trial, signed
        return [
            trial
            for trial, mine in placed.values()
            if not any(_beats(other, mine) for _, other in placed.values())
        ]

    @property
    def exit_code(self) -> int:
        """0 when every point that can work has a result or was pruned, 2 when the sweep was stopped
        before any was run, 130 when it was interrupted, 1 otherwise."""
        if self.interrupted:
            return 130
        if self.stopped is not None:
            return 1 if self.trials else 2
        wanted = {p.run_id for p in self.points if p.run_id}
        done = {run for run, trial in self.trials.items() if trial.is_over}
        return 0 if wanted <= done else 1


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """As good in all figures and better in one; the smaller is the better."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def drive(
    definition: Definition,
    points: list[Point],
    launch: Launch,
    at_once: int = 1,
    tell: Callable[[Trial], None] = lambda _: None,
) -> Swept:
    """Run what is left of a sweep.

    Args:
        at_once: jobs handed to `launch` at a time.
        tell: called with each trial when its batch is done.

    Raises:
        ConfigRefused: another process drives the sweep (LF714), its folder is another one's
            (LF713), a point is refused that was sound when the sweep was compiled.
    """
    folder = SweepFolder(definition.folder)
    with folder.lock():
        folder.claim(definition)
        folder.write_points([point.to_dict() for point in points])
        for point in points:
            link_finished(folder, point)
        swept = Swept(definition, points, _known(points, folder))
        with recorded(folder.path, swept.warnings) as recorder:
            running = Running(
                swept, folder, recorder.before(launch), tell,
                EqualFailures(definition.spec.equal_failures),
                ledger_of_grid(definition, folder, swept.trials, points),
            )  # fmt: skip
            for batch in _batches((point for point in points if point.runs), at_once):
                if not running.run(batch):
                    break
            recorder.interrupted = swept.interrupted
    return swept


@dataclass
class Running:
    """Runs batches of a sweep, of a grid as of a search."""

    swept: Swept
    folder: SweepFolder
    launch: Launch
    tell: Callable[[Trial], None]
    watch: EqualFailures
    ledger: Ledger
    started: int = 0

    def run(self, batch: Sequence[Point]) -> bool:
        """Run some points side by side; False when no other is to be started.

        Raises:
            ConfigRefused: a point is refused by now, or a search's storage fails.
        """
        ready = []
        for point, plan in _plans(self.swept, batch):
            place = self.folder.path / plan.run_id
            if place.is_symlink() and not place.exists():
                place.unlink()  # the run that it was a link to is gone
            run = RunFolder.create(plan)
            self.ledger.begin(point, run)
            ready.append(run.path)
        failed = self._launched(ready)
        self.started += len(batch)
        found = [trial_of(path) for path in ready]
        for trial in found:
            self.swept.trials[trial.run_id] = trial
            self.tell(trial)
            self.swept.stopped = self.swept.stopped or self.watch.add(trial)
        if self.swept.stopped is not None:
            self.folder.stop(self.swept.stopped.to_dict())
        for trial in found:
            self.ledger.end(trial)
        if failed is None and any(t.status == Status.INTERRUPTED.value for t in found):
            self.swept.interrupted = True
        return self.swept.stopped is None and not self.swept.interrupted

    def _launched(self, ready: Sequence[Path]) -> Diagnostic | None:
        """Hand jobs to the launcher; LF732 when it, and not a trial, failed.

        What came of the trials stands in their folders either way; a launcher that did not even
        start one would not start the next, and stops the sweep.
        """
        for path in ready:
            _tell_held(RunFolder(path))
        asked = Asked(self.folder)
        found: Diagnostic | None = None
        try:
            with asked_to_stop(asked):
                self.launch([[job_override(path)] for path in ready], self.started)
        except Exception as error:  # launchers raise whatever their libraries do
            found = _launcher_failed(error)
        self.swept.interrupted = self.swept.interrupted or asked.by is not None
        if found is None or self.swept.interrupted:
            return found
        for path in ready:
            _wait_for(RunFolder(path))
        if any(RunFolder(path).status() is Status.CREATED for path in ready):
            self.swept.stopped = found
        else:
            self.swept.warnings.append(replace(found, severity=Severity.WARNING))
        return found


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


def _launcher_failed(error: Exception) -> Diagnostic:
    said = " ".join(str(error).split())[:300]
    return Diagnostic(
        "LF732",
        f"the launcher failed: {type(error).__name__}: {said}",
        key="hydra/launcher",
        notes=("trials keep what they have; the same command goes on with what is missing",),
        hint="hydra/launcher=basic",
    )


def link_finished(folder: SweepFolder, point: Point) -> None:
    """A point that was finished as a run of its own is answered from there: its place in the
    sweep's folder is a link to that run."""
    if point.place is None or point.run_id is None:
        return
    target = folder.path / point.run_id
    if not target.exists():
        target.symlink_to(os.path.relpath(point.place, folder.path), target_is_directory=True)


def _plans(swept: Swept, batch: Sequence[Point]) -> list[tuple[Point, Plan]]:
    """The plans of some points as they are now: a data file may have changed since they were
    looked at, and then the point is another run."""
    plans = []
    for point in batch:
        plan = plan_of(swept.definition, point)
        if plan.run_id != point.run_id:
            place = swept.points.index(point)
            point = replace(point, run_id=plan.run_id, fingerprint=plan.fingerprint)
            swept.points[place] = point
        plans.append((point, plan))
    return plans


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


def _known(points: Iterable[Point], folder: SweepFolder) -> dict[str, Trial]:
    """Trials that were finished before."""
    return {
        point.run_id: trial_of(folder.path / point.run_id)
        for point in points
        if point.run_id and point.state in (State.FINISHED, State.PRUNED)
    }


def _batches(points: Iterable[Point], size: int) -> Iterator[list[Point]]:
    batch: list[Point] = []
    for point in points:
        batch.append(point)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
