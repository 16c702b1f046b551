"""A search: points proposed one after the other, each compiled before it runs.

In: a definition, its axes, a launcher. Out: `Swept`, as of a grid. What the compiler refuses is
told to the study and costs no trial; a proposal that is a run of before is answered from its
folder. All state is in the study and in the run folders: a driver that was killed settles what it
left, goes on with what was running, and proposes what it would have proposed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from llmforge.compiler.passes import check_draft
from llmforge.compose.variants import Variants
from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.schema.sweep import SearchSweep
from llmforge.sweep.definition import Definition
from llmforge.sweep.driver import link_finished
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.jobs import Launch
from llmforge.sweep.ledger import SearchLedger
from llmforge.sweep.preflight import Point, State, look, overrides_of, refusals, state_of
from llmforge.sweep.recorder import recorded
from llmforge.sweep.running import EqualFailures, Running
from llmforge.sweep.spaces import Surveyed
from llmforge.sweep.study import Study
from llmforge.sweep.swept import Swept
from llmforge.sweep.trial import Trial, trial_of

MOST_REASONS = 3
"""Of refused proposals that are told."""


def search(
    definition: Definition,
    space: Surveyed,
    launch: Launch,
    at_once: int = 1,
    tell: Callable[[Trial], None] = lambda _: None,
    one_by_one: bool = False,
) -> Swept:
    """Run what is left of a search.

    Args:
        at_once: trials that run side by side, or are handed to `launch` at a time.
        tell: called with each trial when it is done, or its batch.
        one_by_one: call `launch` for each trial, from several threads, and not for batches: then a
            point is proposed when a trial has ended.

    Raises:
        ConfigRefused: another process drives it (LF714), its folder or its study is another
            sweep's (LF713, LF727), the study cannot be opened (LF722, LF726).
    """
    folder = SweepFolder(definition.folder)
    with folder.lock():
        folder.claim(definition)
        study = Study(definition, space.axes, folder.path)
        swept = Swept(definition, [])
        with recorded(folder.path, swept.warnings) as recorder:
            ledger = SearchLedger(study)
            running = Running(
                swept, folder, launch, tell, recorder.news,
                EqualFailures(definition.spec.equal_failures), ledger,
            )  # fmt: skip
            part = _Search(space, study, running, ledger, at_once)
            try:
                part.stream() if one_by_one else part.run()
            except ConfigRefused as trouble:  # the storage, or a point whose files changed
                swept.stopped = next(d for d in trouble.diagnostics if d.is_error)
                folder.stop(swept.stopped.to_dict())
            recorder.interrupted = swept.interrupted
    return swept


class _Search:
    """One driver's part of a search."""

    def __init__(
        self, space: Surveyed, study: Study, running: Running, ledger: SearchLedger, at_once: int
    ) -> None:
        spec = running.swept.definition.spec
        assert isinstance(spec, SearchSweep)  # noqa: S101 - `is_search` was asked
        self._spec, self._space, self._study = spec, space, study
        self._running, self._ledger, self._at_once = running, ledger, at_once
        self._swept = running.swept
        self._variants = Variants(self._swept.definition.config_dirs)
        self._refused_in_row = 0

    def run(self) -> None:
        """Batch by batch, until the budget is spent, the space is seen, or something stops it."""
        waiting = self._settle()
        while self._running.goes_on:
            batch: dict[str | None, Point] = {}
            while len(batch) < self._at_once and (point := self._following(waiting)) is not None:
                if point.run_id in batch:
                    self._ledger.also(point)
                else:
                    batch[point.run_id] = point
            self._keep()
            if not (batch and self._running.run(list(batch.values()))):
                break
        self._keep()

    def stream(self) -> None:
        """The same, the next trial as soon as one has ended."""
        waiting = self._settle()

        def following() -> Point | None:
            while (point := self._following(waiting)) is not None:
                if not self._ledger.is_at_work(str(point.run_id)):
                    break
                self._ledger.also(point)
            self._keep()
            return point

        self._running.stream(following, self._at_once)
        self._keep()

    def _following(self, waiting: list[Point]) -> Point | None:
        """A point of an earlier driver while there is one, then a new one."""
        return waiting.pop(0) if waiting else self._next()

    def _settle(self) -> list[Point]:
        """Trials of earlier drivers: those that are over are told, the others returned, and those
        that failed by no fault of their points."""
        for number in self._study.worth_another():
            self._study.again(number)
        known = self._study.points()
        left = []
        for number in self._study.open_numbers():
            if number not in known:
                self._study.drop(number)
            elif known[number].run_id:
                state = state_of(self._folder(known[number]))
                known[number] = replace(known[number], state=state)
        for number, point in sorted(known.items()):
            self._swept.points.append(point)
            if point.state is State.REFUSED or point.run_id is None:
                continue
            trial = trial_of(self._folder(point))
            if number not in self._study.open_numbers():
                self._swept.trials[trial.run_id] = trial
            elif trial.is_over:
                self._swept.trials[trial.run_id] = trial
                self._study.tell(number, trial)
            else:
                left.append(point)
        return left

    def _next(self) -> Point | None:
        """A point that is to run; None when the search is over or stopped."""
        while self._swept.stopped is None:
            if self._study.counted() >= self._spec.trials:
                return None
            if len(self._study.asked()) >= self._space.size:
                return None
            if self._spec.sampler == "grid" and self._grid_is_seen():
                return None
            number, values = self._study.ask(self._at_once)
            overrides = overrides_of(self._swept.definition, values)
            checked = check_draft(self._variants.compose(overrides),
                                  self._swept.definition.config_dirs)  # fmt: skip
            point = look(self._swept.definition, number, values, checked)
            if point.state is State.REFUSED:
                self._swept.points.append(point)
                self._refuse(point)
                continue
            self._refused_in_row = 0
            twin = next((p for p in self._swept.points if p.run_id == point.run_id), None)
            if twin is not None:
                point = replace(point, state=State.DUPLICATE)
            link_finished(self._running.folder, point)
            self._study.bind(number, point)
            self._swept.points.append(point)
            begun = twin is not None and twin.run_id not in self._swept.trials
            if begun or (twin is None and point.runs):
                return point
            self._answer(point)
        return None

    def _answer(self, point: Point) -> None:
        """Tell the study what a run of before has come to."""
        trial = trial_of(self._folder(point))
        self._swept.trials.setdefault(trial.run_id, trial)
        self._study.tell(point.number, trial)

    def _refuse(self, point: Point) -> None:
        self._study.refuse(point.number, point)
        self._refused_in_row += 1
        if self._spec.refused == "stop":
            self._swept.stopped = refusals([point])[0]
        elif self._refused_in_row >= self._spec.refused_in_row:
            self._swept.stopped = _fruitless(self._swept.points[-self._refused_in_row :])
        if self._swept.stopped is not None:
            self._running.folder.stop(self._swept.stopped.to_dict())

    def _grid_is_seen(self) -> bool:
        from llmforge.sweep.proposing import grid_of

        size = 1
        for axis in self._space.axes:
            size *= len(grid_of(axis, self._spec.grid_points))
        return len(self._study.asked()) >= size

    def _folder(self, point: Point) -> Path:
        return self._running.folder.path / str(point.run_id)

    def _keep(self) -> None:
        self._running.folder.write_points([point.to_dict() for point in self._swept.points])


def _fruitless(points: Sequence[Point]) -> Diagnostic:
    reasons = [f"{', '.join(point.codes)}: {point.reasons[0]}" for point in points]
    return Diagnostic(
        "LF728",
        f"the last {len(points)} points that the search proposed cannot work",
        key="sweep.space",
        notes=tuple(dict.fromkeys(reasons))[:MOST_REASONS],
    )
