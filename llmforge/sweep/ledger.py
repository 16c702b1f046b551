"""What the driver tells a study while a grid or a search runs.

In: points that are about to start, trials that are over. Out: `trial.json` in the run folders, and
the study's trials settled. A grid without a pruner has no study. Where a grid only prunes, trouble
with the study's storage is told once and the sweep goes on unpruned; a search cannot do without.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from llmforge import render
from llmforge.diagnostics import ConfigRefused, Severity
from llmforge.run import pruning
from llmforge.run.folder import RunFolder
from llmforge.sweep.axes import Axis
from llmforge.sweep.definition import Definition
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.preflight import Point, State
from llmforge.sweep.study import Study
from llmforge.sweep.trial import Trial


class Ledger(Protocol):
    """Hears of every trial."""

    def begin(self, point: Point, run: RunFolder) -> None:
        """Before a trial is handed to the launcher."""

    def end(self, trial: Trial) -> None:
        """After its batch is done."""


class NoLedger:
    """Nobody wants to know."""

    def begin(self, point: Point, run: RunFolder) -> None:
        """A trial that an earlier, pruned sweep began is pruned no more."""
        del point
        pruning.forget(run)

    def end(self, trial: Trial) -> None:
        """Nothing to do."""


class SearchLedger:
    """Of a search: the points come from the study.

    Raises:
        ConfigRefused: from `begin` and `end`, when the storage fails (LF726).
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self._numbers: dict[str, list[int]] = {}

    def begin(self, point: Point, run: RunFolder) -> None:
        """The run is this trial of the study."""
        pruning.forget(run)
        if self._study.points()[point.number].run_id != run.run_id:
            self._study.bind(point.number, point)  # its data changed since it was proposed
        self._numbers.setdefault(run.run_id, []).append(point.number)
        self._study.assign(point.number, run)

    def also(self, point: Point) -> None:
        """A proposal that is a run which others wait for too."""
        self._numbers.setdefault(str(point.run_id), []).append(point.number)

    def is_at_work(self, run_id: str) -> bool:
        """Has the run begun, and not ended?"""
        return run_id in self._numbers

    def end(self, trial: Trial) -> None:
        """What came of it."""
        for number in self._numbers.pop(trial.run_id, []):
            self._study.tell(number, trial)


class GridLedger:
    """Of a grid that is pruned: its points are given to the study."""

    def __init__(self, study: Study | None) -> None:
        self._study = study
        self._numbers: dict[str, int] = {}

    def begin(self, point: Point, run: RunFolder) -> None:
        """The point becomes a trial of the study, unless it is one."""
        pruning.forget(run)
        if self._study is None:
            return
        try:
            number = self._study.adopt(replace(point, run_id=run.run_id))
            self._study.assign(number, run)
            self._numbers[run.run_id] = number
        except ConfigRefused as trouble:
            self._give_up(trouble)

    def end(self, trial: Trial) -> None:
        """What came of it; one that failed may be tried again, and is told only when it is over."""
        number = self._numbers.get(trial.run_id)
        if self._study is None or number is None or not trial.is_over:
            return
        try:
            self._study.tell(number, trial)
        except ConfigRefused as trouble:
            self._give_up(trouble)

    def remember(self, point: Point, trial: Trial) -> None:
        """A trial that was over before this study began; others are judged by it."""
        if self._study is None:
            return
        try:
            self._study.tell(self._study.adopt(point), trial)
        except ConfigRefused as trouble:
            self._give_up(trouble)

    def _give_up(self, trouble: ConfigRefused) -> None:
        self._study = None
        told = [replace(found, severity=Severity.WARNING) for found in trouble.diagnostics]
        render.emit(render.findings_text(told, render.wants_colour(sys.stderr)), sys.stderr)


def ledger_of_grid(
    definition: Definition,
    folder: SweepFolder,
    known: Mapping[str, Trial],
    points: Iterable[Point],
) -> NoLedger | GridLedger:
    """The ledger of a grid; its study knows the trials that are over, for others to be judged by.

    Args:
        known: run id -> trial that is over.
        points: of the grid.

    Raises:
        ConfigRefused: it is to be pruned, and its study cannot be opened.
    """
    if definition.spec.pruner == "none":
        return NoLedger()
    axes = [Axis(one.key, "choice", tuple(dict.fromkeys(one.values)))
            for one in definition.dimensions]  # fmt: skip
    ledger = GridLedger(Study(definition, axes, folder.path))
    for point in points:
        if point.run_id and point.run_id in known and point.state is not State.DUPLICATE:
            ledger.remember(point, known[point.run_id])
    return ledger
