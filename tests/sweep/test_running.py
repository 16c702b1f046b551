"""Trials side by side: the next one starts when one ends, each in a place of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from llmforge.diagnostics import ConfigRefused
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep import searching
from llmforge.sweep.definition import define
from llmforge.sweep.driver import drive
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.jobs import place_of, trial_folder
from llmforge.sweep.preflight import examine, grid
from llmforge.sweep.search import search
from llmforge.sweep.swept import Swept

LONGEST = 60.0
"""Seconds after which a test has hung."""


class Launcher:
    """Called from several threads; a job ends when `ends` lets it, with the figure of its seed."""

    def __init__(self, ends: Callable[[int, Launcher], float | str | None] | None = None) -> None:
        self.ends = ends or (lambda seed, _: float(seed))
        self.begun: list[int] = []
        self.done: list[int] = []
        self.together: list[set[int]] = []
        """Places at work, whenever another one began."""
        self.changed = threading.Condition()
        self._places: set[int] = set()

    def __call__(self, jobs: list[list[str]], first: int) -> list[None]:
        (job,) = jobs
        folder = trial_folder(job)
        assert folder is not None
        run = RunFolder.open(folder)
        seed, place = int(run.plan().settings["seed"]), place_of(job).number
        with self.changed:
            assert first == len(self.begun)
            assert place not in self._places
            self.begun.append(seed)
            self._places.add(place)
            self.together.append(set(self._places))
            self.changed.notify_all()
        try:
            came = self.ends(seed, self)
            if came is None:
                run.set_status(Status.INTERRUPTED)
            elif isinstance(came, str):
                run.set_status(Status.FAILED, code=came, reason=f"{came} happened")
            else:
                run.write_json("result.json", {"eval_loss": came})
                run.set_status(Status.FINISHED)
        finally:
            with self.changed:
                self._places.discard(place)
                self.done.append(seed)
                self.changed.notify_all()
        return [None]

    def until(self, condition: Callable[[], bool]) -> None:
        with self.changed:
            assert self.changed.wait_for(condition, LONGEST)


def swept(launcher: Any, *overrides: str, at_once: int = 2) -> Swept:
    definition = define(["hardware=cpu", "tracking=none", *overrides])
    points = examine(definition, grid(definition))
    return drive(definition, points, launcher, at_once, one_by_one=True)


def test_a_slow_trial_holds_up_no_other(work):
    def ends(seed: int, launcher: Launcher) -> float:
        if seed == 1:
            launcher.until(lambda: {2, 3, 4} <= set(launcher.done))
        return float(seed)

    launcher = Launcher(ends)
    found = swept(launcher, "seed=1,2,3,4")

    assert found.exit_code == 0
    assert launcher.done[-1] == 1
    assert sorted(launcher.begun) == [1, 2, 3, 4]


def test_never_more_at_once_than_there_are_places(work):
    def ends(seed: int, launcher: Launcher) -> float:
        launcher.until(lambda: len(launcher.begun) >= 3)
        return float(seed)

    launcher = Launcher(ends)
    swept(launcher, "seed=range(1,9)", at_once=3)

    assert set().union(*launcher.together) == {0, 1, 2}
    assert max(map(len, launcher.together)) == 3
    assert sorted(launcher.done) == list(range(1, 9))


def test_equal_failures_stop_it_and_those_at_work_go_on_to_their_end(work):
    def ends(seed: int, launcher: Launcher) -> float | str:
        if seed == 1:
            launcher.until(lambda: len(launcher.done) >= 3)
            time.sleep(0.2)
            return 1.0
        return "LF801"

    launcher = Launcher(ends)
    found = swept(launcher, "seed=range(1,9)")

    assert found.stopped is not None
    assert found.stopped.code == "LF716"
    assert 1 in launcher.done
    assert len(launcher.begun) < 8
    assert found.best is not None
    assert SweepFolder(found.definition.folder).stopped is not None


def test_a_trial_that_was_interrupted_is_the_last_to_start(work):
    def ends(seed: int, launcher: Launcher) -> float | None:
        launcher.until(lambda: len(launcher.begun) >= 2)
        return None if seed == 1 else 2.0

    launcher = Launcher(ends)
    found = swept(launcher, "seed=1,2,3,4,5,6")

    assert found.interrupted
    assert found.exit_code == 130
    assert len(launcher.begun) <= 3  # the other place may have been filled just before


def test_one_call_that_fails_is_told_and_the_others_go_on(work):
    def ends(seed: int, launcher: Launcher) -> float:
        if seed == 2:
            folder = next(f for f in work.glob("multirun/*/*/plan.json")
                          if RunFolder(f.parent).plan().settings["seed"] == 2)  # fmt: skip
            RunFolder(folder.parent).set_status(Status.FAILED, code="LF804", reason="killed")
            raise OSError("the process is gone")
        return float(seed)

    found = swept(Launcher(ends), "seed=1,2,3,4")

    assert [t.status for t in sorted(found.trials.values(), key=lambda t: t.figures.get(
        "eval_loss", 2.0))] == ["FINISHED", "FAILED", "FINISHED", "FINISHED"]  # fmt: skip
    assert [d.code for d in found.warnings] == ["LF732"]


def test_a_launcher_that_starts_nothing_stops_the_sweep(work):
    begun: list[int] = []

    def launch(jobs: list[list[str]], first: int) -> list[None]:
        begun.append(first)
        raise OSError("no such queue")

    found = swept(launch, "seed=range(1,9)")

    assert found.stopped is not None
    assert found.stopped.code == "LF732"
    assert len(begun) <= 3


def test_a_point_that_is_refused_by_now_ends_it_when_the_others_have_ended(work):
    rows = work / "rows.jsonl"
    rows.write_text('{"prompt": "a?", "completion": "b"}\n' * 64)

    def ends(seed: int, launcher: Launcher) -> float:
        launcher.until(lambda: len(launcher.begun) >= 2)
        rows.unlink(missing_ok=True)
        return float(seed)

    launcher = Launcher(ends)
    with pytest.raises(ConfigRefused):
        swept(launcher, "data=jsonl", "data.train=rows.jsonl", "data.evaluation=null",
              "data.max_cut_tokens=null", "seed=1,2,3,4")  # fmt: skip

    assert sorted(launcher.done) == sorted(launcher.begun)
    assert len(launcher.begun) == 2


RATE = "optimizer.lr=tag(log,interval(1e-5,1e-2))"


def searched(launcher: Any, *overrides: str) -> Swept:
    definition = define(["hardware=cpu", "tracking=none", "sweep=search", *overrides])
    space, _ = searching.prepare(definition)
    return search(definition, space, launcher, 2, one_by_one=True)


def test_a_search_proposes_when_a_trial_has_ended(work):
    optuna = pytest.importorskip("optuna")

    def ends(seed: int, launcher: Launcher) -> float:
        if len(launcher.begun) == 1:
            launcher.until(lambda: len(launcher.done) >= 4)
        return float(seed)

    launcher = Launcher(ends)
    found = searched(launcher, RATE, "sweep.trials=6", "sweep.startup=2")

    file = optuna.storages.journal.JournalFileBackend(
        str(found.definition.folder / "study.journal")
    )
    trials = optuna.load_study(
        study_name=found.definition.name, storage=optuna.storages.JournalStorage(file)
    ).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE"] * 6
    # the slow one was at work while others were proposed and told
    first = min(trials, key=lambda t: t.datetime_start)
    assert sum(t.datetime_complete < first.datetime_complete for t in trials) >= 3


def test_a_proposal_that_is_at_work_is_answered_when_that_ends(work):
    optuna = pytest.importorskip("optuna")

    # how often losses are logged is part of no fingerprint
    def ends(seed: int, launcher: Launcher) -> float:
        launcher.until(lambda: len(launcher.begun) >= 2)
        return float(seed)

    launcher = Launcher(ends)
    found = searched(launcher, "trainer.log_every=1,2,3", "seed=1,2", "sweep.trials=6",
                     "sweep.sampler=grid")  # fmt: skip

    assert sorted(launcher.begun) == [1, 2]
    file = optuna.storages.journal.JournalFileBackend(
        str(found.definition.folder / "study.journal")
    )
    study = optuna.load_study(
        study_name=found.definition.name, storage=optuna.storages.JournalStorage(file)
    )
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 6
