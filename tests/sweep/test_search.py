"""Searches: what is proposed, what is told, and how a driver goes on after a killed one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.diagnostics import ConfigRefused
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep import searching
from llmforge.sweep.definition import define
from llmforge.sweep.jobs import trial_folder
from llmforge.sweep.preflight import State
from llmforge.sweep.search import search
from llmforge.sweep.study import Study
from llmforge.sweep.swept import Swept

optuna = pytest.importorskip("optuna")

LR = "optimizer.lr=tag(log,interval(1e-5,1e-2))"
BEST_LR = 1e-3


class Killed(BaseException):
    """The driver is gone."""


def loss(settings: dict[str, Any]) -> dict[str, float]:
    """A run's figures, best at a rate of a thousandth: no training is needed to look for it."""
    import math

    distance = abs(math.log10(settings["optimizer"]["lr"]) - math.log10(BEST_LR))
    return {"eval_loss": 1 + distance, "seconds": 10 / (1 + distance)}


class Launcher:
    """Finishes runs without a worker; may be killed while it starts its n-th one."""

    def __init__(
        self,
        figures: Callable[[dict[str, Any]], dict[str, float] | Status] = loss,
        killed_at: int = 0,
    ) -> None:
        self.figures, self.killed_at = figures, killed_at
        self.started: list[str] = []

    def __call__(self, jobs: list[list[str]], first: int) -> list[None]:
        del first
        for job in jobs:
            folder = trial_folder(job)
            assert folder is not None
            run = RunFolder.open(folder)
            self.started.append(run.run_id)
            if len(self.started) == self.killed_at:
                run.set_status(Status.RUNNING)
                raise Killed
            came = self.figures(run.plan().settings)
            if isinstance(came, Status):
                run.set_status(came, code="LF801", reason="it ended")
            else:
                run.write_json("result.json", came)
                run.set_status(Status.FINISHED)
        return []


def searched(launcher: Launcher, *overrides: str, at_once: int = 1) -> Swept:
    definition = define(["hardware=cpu", "tracking=none", "sweep=search", *overrides])
    space, _ = searching.prepare(definition)
    return search(definition, space, launcher, at_once)


def study_of(found: Swept) -> Any:
    """The study as Optuna's own tools see it."""
    journal = optuna.storages.journal.JournalFileBackend(
        str(found.definition.folder / "study.journal")
    )
    return optuna.load_study(
        study_name=found.definition.name, storage=optuna.storages.JournalStorage(journal)
    )


@pytest.mark.parametrize("sampler", ["tpe", "random", "nsga2", "cmaes"])
def test_every_sampler_spends_its_budget(work, sampler):
    pytest.importorskip("cmaes")
    launcher = Launcher()
    found = searched(
        launcher, LR, "lora=none,small", f"sweep.sampler={sampler}", "sweep.trials=9",
        "sweep.startup=2", "sweep.population=3",
    )  # fmt: skip

    told = study_of(found).trials
    assert [trial.state.name for trial in told] == ["COMPLETE"] * 9
    # a sampler may propose a point again, which is answered from its folder
    runs = dict.fromkeys(trial.user_attrs["run_id"] for trial in told)
    assert list(runs) == launcher.started
    for trial in told:
        assert 1e-5 <= trial.params["optimizer.lr"] <= 1e-2
        plan = RunFolder(found.definition.folder / trial.user_attrs["run_id"]).plan()
        assert plan.settings["optimizer"]["lr"] == trial.params["optimizer.lr"]
    assert found.exit_code == 0
    assert found.best is not None
    assert found.best.figures["eval_loss"] == min(trial.value for trial in told)


def test_a_sampler_that_learns_gets_closer_than_chance(work):
    learnt = searched(Launcher(), LR, "sweep.sampler=cmaes", "sweep.trials=30", "sweep.startup=4")
    values = [trial.value for trial in study_of(learnt).trials]

    assert sum(values[20:]) / 10 < sum(values[:10]) / 10
    # its state is told again from the trials, and never pickled into the study
    assert "cma:optimizer" not in (learnt.definition.folder / "study.journal").read_text()


def test_a_grid_is_seen_whole_and_once(work):
    found = searched(Launcher(), LR, "seed=1,2", "sweep.sampler=grid", "sweep.grid_points=4")

    rates = sorted({trial.params["optimizer.lr"] for trial in study_of(found).trials})
    assert rates == pytest.approx([1e-5, 1e-4, 1e-3, 1e-2])
    assert len(study_of(found).trials) == 8


@pytest.mark.slow
def test_the_gaussian_process_leaves_torch_out_of_the_driver(work):
    pytest.importorskip("scipy")
    code = (
        "import sys\n"
        "from test_search import *\n"
        f"searched(Launcher(), {LR!r}, 'sweep.sampler=gp', 'sweep.trials=5', 'sweep.startup=2')\n"
        "assert 'torch' not in sys.modules\n"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False,
        env={"PYTHONPATH": str(here), "PATH": "/usr/bin:/bin", "HOME": str(work)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("killed_at", [1, 4])
def test_a_killed_search_goes_on_as_if_it_had_not_been(work, killed_at):
    words = [LR, "lora=none,small", "sweep.trials=7", "sweep.startup=3"]
    whole = Launcher()
    searched(whole, *words, "sweep.folder=whole")

    first = Launcher(killed_at=killed_at)
    with pytest.raises(Killed):
        searched(first, *words)
    second = Launcher()
    found = searched(second, *words)

    # the one that was running goes on, nothing that was over is run again
    assert second.started[0] == first.started[-1]
    assert [*first.started[:-1], *second.started] == whole.started
    assert [trial.state.name for trial in study_of(found).trials] == ["COMPLETE"] * 7

    third = Launcher()
    again = searched(third, *words)
    assert third.started == []
    assert again.best == found.best


def test_more_trials_go_on_where_fewer_ended(work):
    few, more = Launcher(), Launcher()
    searched(few, LR, "sweep.trials=3")
    found = searched(more, LR, "sweep.trials=5")

    assert (len(few.started), len(more.started)) == (3, 2)
    assert len(found.trials) == 5


def test_what_the_compiler_refuses_costs_no_trial(work):
    launcher = Launcher()
    found = searched(
        launcher, "trainer.global_batch=64,96,128", LR, "trainer.micro_batch=64", "sweep.trials=6",
        "sweep.sampler=random",
    )  # fmt: skip

    told = study_of(found).trials
    refused = [trial for trial in told if "refused" in trial.user_attrs]
    assert refused
    assert all(trial.user_attrs["refused"] == ["LF204"] for trial in refused)
    assert all(trial.state.name == "PRUNED" for trial in refused)
    assert all(max(trial.constraints.values()) > 0 for trial in refused)
    assert len(launcher.started) == 6
    assert [p.state for p in found.points].count(State.REFUSED) == len(refused)


def test_a_search_without_anything_to_run_stops(work):
    launcher = Launcher()
    found = searched(
        launcher, "trainer.global_batch=interval(64,128)", LR, "trainer.micro_batch=64",
        "sweep.refused_in_row=3",
    )  # fmt: skip

    assert found.stopped is not None
    assert found.stopped.code == "LF728"
    assert not found.definition.folder.joinpath("study.journal.lock").exists()


def test_a_small_space_ends_before_its_budget(work):
    launcher = Launcher()
    found = searched(launcher, "optimizer.lr=1e-3,1e-4", "seed=1,2", "sweep.trials=50")

    assert len(set(launcher.started)) == len(launcher.started) == 4
    assert found.exit_code == 0


def test_proposals_that_are_one_run_are_run_once(work):
    # how often losses are logged is part of no fingerprint
    launcher = Launcher()
    found = searched(
        launcher, "trainer.log_every=1,2,3", "seed=1,2", "sweep.trials=6", "sweep.sampler=grid"
    )

    told = study_of(found).trials
    assert len(set(launcher.started)) == len(launcher.started) == 2
    assert len(told) == 6
    assert len({trial.value for trial in told}) <= 2


def test_proposals_that_are_one_run_are_run_once_also_after_a_kill(work):
    words = ("trainer.log_every=1,2,3", "sweep.trials=3", "sweep.sampler=grid")
    with pytest.raises(Killed):
        searched(Launcher(killed_at=1), *words, at_once=3)
    launcher = Launcher()
    found = searched(launcher, *words, at_once=3)

    assert len(launcher.started) == 1
    assert [trial.state.name for trial in study_of(found).trials] == ["COMPLETE"] * 3


def test_failed_trials_are_told_and_cost_one(work):
    def figures(settings: dict[str, Any]) -> dict[str, float] | Status:
        return Status.FAILED if settings["optimizer"]["lr"] > BEST_LR else loss(settings)

    found = searched(
        Launcher(figures), LR, "sweep.trials=6", "sweep.sampler=random", "sweep.equal_failures=9"
    )

    states = [trial.state.name for trial in study_of(found).trials]
    assert len(states) == 6
    assert set(states) == {"COMPLETE", "FAIL"}
    assert found.exit_code == 1


@pytest.mark.parametrize("sampler", ["tpe", "grid", "cmaes", "nsga2"])
def test_what_failed_by_the_machine_is_tried_again_and_what_the_point_did_is_not(work, sampler):
    pytest.importorskip("cmaes")
    codes = {2: "LF804", 3: "LF802", 4: "LF820"}

    class Breaks(Launcher):
        def __call__(self, jobs: list[list[str]], first: int) -> list[None]:
            super().__call__(jobs, first)
            code = codes.get(len(self.started))
            if code is not None:
                run = RunFolder.open(trial_folder(jobs[0]) or "")
                (run.path / "result.json").unlink()
                run.set_status(Status.FAILED, code=code, reason="it broke")
            return []

    words = [LR, "seed=1,2", f"sweep.sampler={sampler}", "sweep.trials=6", "sweep.name=s",
             "sweep.population=3", "sweep.startup=2"]  # fmt: skip
    launcher = Breaks()
    searched(launcher, *words)
    killed, bad, full = launcher.started[1:4]

    definition = define(["hardware=cpu", "tracking=none", "sweep=search", *words])
    space, before = searching.prepare(definition)
    assert "3 finished, 1 failed, 2 to try again before · 2 to run" in searching.summary(
        definition, space, before
    )
    again = Launcher()
    found = searched(again, *words)
    assert again.started == [killed, full]
    assert found.trials[bad].code == "LF802"
    assert len(found.trials) == len(found.points) == 6
    study = study_of(found)
    last = {trial.user_attrs["run_id"]: trial for trial in study.trials}
    assert len(study.trials) == 8
    assert [last[run].state.name for run in (killed, bad, full)] == ["COMPLETE", "FAIL", "COMPLETE"]
    # nothing is left, and a larger budget goes on from there
    more = searched(Launcher(), *[word.replace("trials=6", "trials=7") for word in words])
    assert len(study_of(more).trials) == 9


def test_a_result_without_its_objective_is_a_failure(work):
    found = searched(Launcher(lambda _: {"eval_loss": float("nan")}), LR, "sweep.trials=2")

    assert [trial.state.name for trial in study_of(found).trials] == ["FAIL", "FAIL"]


def test_several_objectives_end_in_a_front(work):
    found = searched(
        Launcher(), LR, "sweep.sampler=nsga2", "sweep.population=3", "sweep.trials=8",
        "sweep.objectives={eval_loss: minimize, seconds: minimize}",
    )  # fmt: skip

    study = study_of(found)
    best = {trial.user_attrs["run_id"] for trial in study.best_trials}
    assert {trial.run_id for trial in found.front} == best
    assert 0 < len(best) <= 8


def test_trials_side_by_side(work):
    batches: list[int] = []
    launcher = Launcher()

    def launch(jobs: list[list[str]], first: int) -> list[None]:
        batches.append(len(jobs))
        return launcher(jobs, first)

    definition = define(["hardware=cpu", "tracking=none", "sweep=search", LR, "sweep.trials=5"])
    space, _ = searching.prepare(definition)
    search(definition, space, launch, 2)

    assert batches == [2, 2, 1]


def test_a_database_holds_the_study_too(work):
    found = searched(Launcher(), LR, "sweep.trials=2", "sweep.storage=sqlite:///studies.db")

    study = optuna.load_study(study_name=found.definition.name, storage="sqlite:///studies.db")
    assert len(study.trials) == 2
    assert study.metric_names == ["eval_loss"]
    assert not (found.definition.folder / "study.journal").exists()


def test_another_process_reads_the_study(work):
    found = searched(Launcher(), LR, "sweep.trials=2")

    code = (
        "import json, optuna\n"
        "from optuna.storages import JournalStorage, journal\n"
        f"file = journal.JournalFileBackend({str(found.definition.folder / 'study.journal')!r})\n"
        f"study = optuna.load_study(study_name={found.definition.name!r}, "
        "storage=JournalStorage(file))\n"
        "print(json.dumps([study.best_value, study.best_trial.user_attrs['run_id']]))\n"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.best is not None
    assert json.loads(out.stdout) == [found.best.figures["eval_loss"], found.best.run_id]


def test_half_a_line_of_a_killed_driver_is_passed_over(work):
    found = searched(Launcher(), LR, "sweep.trials=2")
    journal = found.definition.folder / "study.journal"
    with journal.open("a") as file:
        file.write('{"op_code": 4, "wor')

    again = searched(Launcher(), LR, "sweep.trials=3")
    assert len(study_of(again).trials) == 3


def test_a_broken_journal_is_told_and_finished_runs_are_found_again(work):
    words = [LR, "sweep.trials=3"]
    found = searched(Launcher(), *words)
    journal = found.definition.folder / "study.journal"
    lines = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([lines[0], "what is this\n", *lines[1:]]))

    with pytest.raises(ConfigRefused) as refused:
        searched(Launcher(), *words)
    (told,) = refused.value.diagnostics
    assert told.code == "LF726"
    assert told.hint == f"mv {journal.absolute()} {journal.absolute()}.broken"

    journal.rename(f"{journal}.broken")
    launcher = Launcher()
    searched(launcher, *words)
    assert launcher.started == []


def test_a_locked_database_is_told(work):
    import sqlite3

    words = [LR, "sweep.trials=2", "sweep.storage=sqlite:///studies.db"]
    searched(Launcher(), *words)
    with sqlite3.connect("studies.db", isolation_level=None) as other:
        other.execute("begin exclusive")
        with pytest.raises(ConfigRefused) as refused:
            searched(Launcher(), *words)
    other.close()
    (told,) = refused.value.diagnostics
    assert (told.code, told.hint) == ("LF726", "sweep.storage=auto")
    assert "locked" in " ".join(told.notes)


def test_ends_of_an_interval_may_move_and_choices_may_not(work):
    first = searched(Launcher(), LR, "seed=1,2", "sweep.trials=2", "sweep.name=s")
    wider = LR.replace("1e-2", "2e-2")
    found = searched(Launcher(), wider, "seed=1,2", "sweep.trials=3", "sweep.name=s")
    assert len(found.trials) == 3
    assert found.definition.folder == first.definition.folder

    with pytest.raises(ConfigRefused) as refused:
        searched(Launcher(), LR, "seed=1,2,3", "sweep.trials=3", "sweep.name=s")
    (told,) = refused.value.diagnostics
    assert told.code == "LF727"
    assert told.notes == ("`seed`: 1,2 there, 1,2,3 here",)


def test_a_trial_that_was_never_bound_costs_nothing(work):
    found = searched(Launcher(), LR, "sweep.trials=2")
    study_of(found).ask()  # a driver that died before it knew which run this is

    again = searched(Launcher(), LR, "sweep.trials=3")
    assert len(again.trials) == 3


def test_a_dry_run_begins_no_study(llmforge, work):
    ran = llmforge(f"sweep sweep=search '{LR}' lora=none,small tracking=none --dry-run")

    assert ran.code == 0
    assert "search by tpe over 2 keys · minimize eval_loss · 20 trials · 20 to run" in ran.out
    assert not (work / "multirun").exists()


def test_a_dry_run_tells_what_was_done_before(llmforge, work):
    found = searched(Launcher(), LR, "sweep.trials=2")
    ran = llmforge(f"sweep hardware=cpu tracking=none sweep=search '{LR}' sweep.trials=5 --dry-run")
    assert found.definition.name in ran.out
    assert "2 finished before · 3 to run" in ran.out


def test_the_study_says_where_it_is(work):
    found = searched(Launcher(), LR, "sweep.trials=1")
    space, _ = searching.prepare(found.definition)
    study = Study(found.definition, space.axes, found.definition.folder.absolute())

    assert study.address == "study.journal"
    assert study.counted() == 1
