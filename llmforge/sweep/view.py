"""A sweep as its folder tells it: for pages, tables and MLflow, whoever drives it or none.

In: a sweep's folder. Out: `SweepView`: what was sought, every point with what became of it, the
best trial. Reads JSON and journals only; compiles nothing, locks nothing, and may be asked while
trials run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from llmforge.run import journal
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.preflight import State


@dataclass(frozen=True)
class TrialView:
    """One point, and the run it became."""

    number: int
    values: Mapping[str, str]
    """Key -> text of its value."""
    overrides: tuple[str, ...]
    state: str
    """What was known before the sweep started: see `preflight.State`."""
    run_id: str | None = None
    folder: Path | None = None
    status: str = ""
    """Of the run, in capitals; empty for a point that was never started."""
    updated: str = ""
    code: str | None = None
    reason: str | None = None
    figures: Mapping[str, float] = field(default_factory=dict)
    """Numbers of its result."""
    codes: tuple[str, ...] = ()
    reasons: tuple[str, ...] = ()
    """Why the compiler refused it."""

    @property
    def is_finished(self) -> bool:
        """Has it a result?"""
        return self.status == Status.FINISHED.value

    @property
    def is_failed(self) -> bool:
        """Did it end by itself, without a result?"""
        return self.status == Status.FAILED.value

    @property
    def label(self) -> str:
        """`lora=small optimizer.lr=1e-4`."""
        return " ".join(f"{key}={value}" for key, value in self.values.items())

    def history(self) -> dict[str, dict[int, float]]:
        """Every metric over the optimizer steps."""
        return journal.history(RunFolder(self.folder).journal) if self.folder else {}


@dataclass(frozen=True)
class SweepView:
    """A sweep's folder, read."""

    folder: Path
    definition: Mapping[str, Any]
    points: tuple[TrialView, ...]
    stopped: Mapping[str, Any] | None = None
    """The diagnostic that stopped it."""

    @classmethod
    def read(cls, path: str | Path) -> SweepView:
        """What the folder says now.

        Raises:
            FileNotFoundError: there is no `sweep.json` in it.
        """
        folder = SweepFolder(path)
        if not folder.definition_file.is_file():
            raise FileNotFoundError(f"{folder.path} is no sweep's folder: it has no sweep.json")
        points = tuple(_point(folder.path, line) for line in folder.points())
        return cls(folder.path, folder.read(), points, folder.stopped)

    @property
    def name(self) -> str:
        """Name of the sweep."""
        return str(self.definition.get("name", self.folder.name))

    @property
    def objective(self) -> str:
        """The figure that is sought; of several, the first."""
        return next(iter(self.objectives))

    @property
    def minimize(self) -> bool:
        """Is a smaller objective better?"""
        return self.objectives[self.objective] == "minimize"

    @cached_property
    def objectives(self) -> dict[str, str]:
        """Figure -> `minimize` or `maximize`."""
        known = self.definition
        several = known.get("objectives")
        if several:
            return {str(name): str(direction) for name, direction in several.items()}
        name, direction = known.get("objective", "eval_loss"), known.get("direction", "minimize")
        return {str(name): str(direction)}

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """What is varied."""
        space = tuple(self.definition.get("space", {}))
        return space or tuple(dict.fromkeys(key for one in self.points for key in one.values))

    @cached_property
    def trials(self) -> tuple[TrialView, ...]:
        """Points that are runs of their own, in the order of the sweep."""
        apart = (State.REFUSED.value, State.DUPLICATE.value)
        return tuple(one for one in self.points if one.run_id and one.state not in apart)

    @cached_property
    def ranked(self) -> tuple[TrialView, ...]:
        """Finished trials with a figure, the best first; equal ones in the sweep's order."""
        known = [one for one in self.trials if one.is_finished and self.objective in one.figures]
        sign = 1 if self.minimize else -1
        return tuple(sorted(known, key=lambda one: sign * one.figures[self.objective]))

    @cached_property
    def front(self) -> tuple[TrialView, ...]:
        """Finished trials that no other one equals or beats in every objective, and beats in one;
        the best alone where one figure is sought."""
        if len(self.objectives) == 1:
            return self.ranked[:1]
        known = [one for one in self.ranked if all(name in one.figures for name in self.objectives)]
        costs = {one.number: self._costs(one) for one in known}
        return tuple(
            one
            for one in known
            if not any(_beats(costs[other.number], costs[one.number]) for other in known)
        )

    def _costs(self, trial: TrialView) -> tuple[float, ...]:
        return tuple(
            trial.figures[name] * (1 if direction == "minimize" else -1)
            for name, direction in self.objectives.items()
        )

    @property
    def best(self) -> TrialView | None:
        """The finished trial with the best objective."""
        return self.ranked[0] if self.ranked else None

    @property
    def refused(self) -> tuple[TrialView, ...]:
        """Points that the compiler left out."""
        return tuple(one for one in self.points if one.state == State.REFUSED.value)

    @property
    def counts(self) -> dict[str, int]:
        """Points, and how many of them are in which state."""
        left = [one for one in self.trials if one.status not in _ENDED]
        ended = {status: sum(one.status == status for one in self.trials) for status in _ENDED}
        doubles = sum(one.state == State.DUPLICATE.value for one in self.points)
        return {
            "points": len(self.points),
            **{status.lower(): number for status, number in ended.items()},
            "duplicate": doubles,
            "refused": len(self.refused),
            "left": len(left),
        }


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))


_ENDED = tuple(s.value for s in Status if s not in (Status.CREATED, Status.RUNNING))
"""Statuses of trials that were started and are not at work."""


def _point(folder: Path, line: Mapping[str, Any]) -> TrialView:
    run_id = line.get("run_id")
    started = run_id is not None and line["state"] != State.REFUSED.value
    run = RunFolder(folder / str(run_id)) if started else None
    there = run is not None and run.plan_file.is_file()
    record = run.record() if run is not None and there else None
    result = run.result() if run is not None and there else None
    return TrialView(
        number=int(line.get("number", 0)),
        values={str(key): str(value) for key, value in line.get("values", {}).items()},
        overrides=tuple(line.get("overrides", ())),
        state=str(line["state"]),
        run_id=run_id,
        folder=run.path if run is not None and there else None,
        status=record.status.value if record else "",
        updated=record.updated if record else "",
        code=record.code if record else None,
        reason=record.reason if record else None,
        figures=figures_of(result),
        codes=tuple(line.get("codes", ())),
        reasons=tuple(line.get("reasons", ())),
    )


def figures_of(result: Mapping[str, Any] | None) -> dict[str, float]:
    """The numbers of a result."""
    return {
        key: value
        for key, value in (result or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
