"""The driver of a sweep: what is to run, in batches, through whatever launches jobs.

In: a definition, its points, and `launch`, which takes the overrides of some jobs and comes back
when they are done (a Hydra launcher's `launch`). Out: `Swept`: every point with what came of it.

The driver keeps nothing in memory that the run folders do not say: killed and started again, it
looks at the folders and goes on. It never raises for a trial.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from llmforge.diagnostics import Diagnostic
from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep.definition import Definition
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.ledger import Ledger, ledger_of_grid
from llmforge.sweep.preflight import Point, State, plan_of
from llmforge.sweep.recorder import recorded
from llmforge.sweep.trial import Trial, trial_of

JOB = "sweep_trial"
"""Key of the override that tells a job its run folder."""

Launch = Callable[[list[list[str]], int], Sequence[Any]]
"""Overrides of each job and the number of the first one -> when all of them are done."""


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
        before any was run, 1 otherwise."""
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
            run = RunFolder.create(plan)
            self.ledger.begin(point, run)
            ready.append(run.path)
        self.launch([[job_override(path)] for path in ready], self.started)
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
        interrupted = any(trial.status == Status.INTERRUPTED.value for trial in found)
        return self.swept.stopped is None and not interrupted


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


def job_override(folder: Path) -> str:
    """The override that tells a job its run folder, whatever characters the path has."""
    text = folder.as_posix()
    # in the grammar a backslash counts only before a quote, or before the end of the text
    text = re.sub(r"(\\*)(?='|$)", r"\1\1", text).replace("'", "\\'")
    return f"+{JOB}='{text.replace('${', chr(92) + '${')}'"


def trial_folder(overrides: Sequence[str]) -> Path | None:
    """The run folder that a job's overrides name; None for a job that is no trial."""
    from llmforge.compose.sweeps import value_of

    prefix = f"+{JOB}="
    named = [text for text in overrides if text.startswith(prefix)]
    return Path(str(value_of(named[0]))) if named else None


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
