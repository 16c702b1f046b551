"""What is started, what is answered from folders, when a sweep stops."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.compiler.passes import compile_plan
from llmforge.diagnostics import ConfigRefused
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep.definition import define
from llmforge.sweep.driver import drive
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.jobs import job_override, trial_folder
from llmforge.sweep.preflight import examine, grid
from llmforge.sweep.running import EqualFailures
from llmforge.sweep.swept import Swept
from llmforge.sweep.trial import Trial


class Launcher:
    """Runs no worker: a job's run folder gets the ending that the seed is given."""

    def __init__(self, endings: dict[int, tuple[str, float | str]] | None = None) -> None:
        self.endings = endings or {}
        self.batches: list[list[int]] = []

    def __call__(self, jobs: list[list[str]], first: int) -> list[None]:
        del first
        seeds = []
        for job in jobs:
            folder = trial_folder(job)
            assert folder is not None
            run = RunFolder.open(folder)
            seed = int(run.plan().settings["seed"])
            seeds.append(seed)
            how, what = self.endings.get(seed, ("finished", float(seed)))
            if how == "finished":
                run.write_json("result.json", {"eval_loss": what})
                run.set_status(Status.FINISHED)
            elif how == "failed":
                run.set_status(Status.FAILED, code=what, reason=f"{what} happened")
            else:
                run.set_status(Status.INTERRUPTED)
        self.batches.append(seeds)
        return [None] * len(jobs)


def swept(launcher: Launcher, *overrides: str, at_once: int = 1) -> Swept:
    definition = define(["hardware=cpu", "tracking=none", *overrides])
    return drive(definition, examine(definition, grid(definition)), launcher, at_once)


def test_every_point_is_run_and_the_best_one_found(work):
    launcher = Launcher()
    found = swept(launcher, "seed=3,1,2")

    assert launcher.batches == [[3], [1], [2]]
    assert found.best is not None
    assert found.best.figures == {"eval_loss": 1.0}
    assert found.exit_code == 0


def test_the_same_command_again_starts_nothing(work):
    swept(Launcher(), "seed=1,2")
    again = Launcher()

    found = swept(again, "seed=1,2")

    assert again.batches == []
    assert found.best is not None
    assert found.exit_code == 0


def test_more_values_later_run_only_what_is_new(work):
    swept(Launcher(), "seed=1,2")
    again = Launcher()
    swept(again, "seed=3,2,1")

    assert again.batches == [[3]]


def test_a_failure_is_recorded_and_the_others_go_on(work):
    found = swept(Launcher({2: ("failed", "LF802")}), "seed=1,2,3")

    assert [t.status for t in found.trials.values()] == [
        Status.FINISHED.value, Status.FAILED.value, Status.FINISHED.value
    ]  # fmt: skip
    assert found.exit_code == 1


def test_three_equal_failures_in_a_row_stop_the_sweep(work):
    endings = dict.fromkeys((2, 3, 4), ("failed", "LF802"))
    launcher = Launcher(endings)
    found = swept(launcher, "seed=range(1,9)")

    assert launcher.batches == [[1], [2], [3], [4]]
    assert found.stopped is not None
    assert found.stopped.code == "LF716"
    assert "LF802 happened" in found.stopped.message
    assert SweepFolder(found.definition.folder).stopped is not None

    launcher.endings = {}
    assert swept(launcher, "seed=range(1,9)").exit_code == 0
    assert SweepFolder(found.definition.folder).stopped is None


def test_different_failures_do_not_stop_it(work):
    endings = {1: ("failed", "LF802"), 2: ("failed", "LF803"), 3: ("failed", "LF802")}
    launcher = Launcher(endings)

    assert swept(launcher, "seed=1,2,3,4").stopped is None
    assert launcher.batches[-1] == [4]


def test_a_success_between_starts_the_count_anew():
    watch = EqualFailures(2)
    failed = Trial("a", Status.FAILED.value, {}, "LF802", "no memory")
    finished = Trial("b", Status.FINISHED.value, {"eval_loss": 1.0})

    assert [watch.add(t) for t in (failed, finished, failed)] == [None, None, None]
    assert watch.add(failed) is not None


def test_an_interrupted_trial_ends_the_sweep(work):
    launcher = Launcher({2: ("interrupted", "")})
    swept(launcher, "seed=1,2,3")

    assert launcher.batches == [[1], [2]]


def test_a_launcher_gets_as_many_as_it_runs_side_by_side(work):
    launcher = Launcher()
    swept(launcher, "seed=range(1,6)", at_once=2)

    assert launcher.batches == [[1, 2], [3, 4], [5]]


def test_a_second_driver_is_refused(work):
    definition = define(["hardware=cpu", "tracking=none", "seed=1,2"])
    points = examine(definition, grid(definition))

    def launch(jobs: list[list[str]], first: int) -> list[None]:
        del jobs, first
        with pytest.raises(ConfigRefused) as refused:
            drive(definition, points, Launcher())
        assert [d.code for d in refused.value.diagnostics] == ["LF714"]
        return []

    drive(definition, points[:1], launch)


def test_a_folder_of_another_sweep_is_refused(work):
    swept(Launcher(), "seed=1,2", "sweep.name=mine")

    with pytest.raises(ConfigRefused) as refused:
        swept(Launcher(), "optimizer.lr=1e-3,1e-4", "sweep.name=mine")
    (found,) = refused.value.diagnostics
    assert found.code == "LF713"
    assert found.hint == "sweep.name=mine-2"


def test_a_folder_that_cannot_be_made_is_refused(llmforge, work):
    (work / "taken").write_text("a file", encoding="utf-8")
    told = llmforge("sweep seed=1,2 hardware=cpu tracking=none sweep.folder=taken")

    assert told.code == 2
    assert "error[LF717]" in told.err
    assert "Traceback" not in told.err
    assert "cannot be written to: Not a directory" in told.err


def test_a_disk_that_is_full_in_the_middle_is_told(work):
    class Fills(Launcher):
        def __call__(self, jobs: list[list[str]], first: int) -> list[None]:
            super().__call__(jobs, first)
            folder = trial_folder(jobs[0])
            assert folder is not None
            # the place of the next trial can no longer be made
            definition = define(["hardware=cpu", "tracking=none", "seed=1,2"])
            for point in examine(definition, grid(definition)):
                place = folder.parent / str(point.run_id)
                if not place.exists():
                    place.write_text("no room", encoding="utf-8")
            return [None]

    with pytest.raises(ConfigRefused) as refused:
        swept(Fills(), "seed=1,2")
    assert [d.code for d in refused.value.diagnostics] == ["LF717"]


def test_the_folder_says_what_was_found_of_each_point(work):
    found = swept(Launcher(), "trainer.global_batch=32,100", "trainer.micro_batch=16")
    folder = SweepFolder(found.definition.folder)

    assert [p["state"] for p in folder.points()] == ["new", "refused"]
    assert folder.points()[1]["codes"] == ["LF204"]
    assert folder.read()["space"] == {"trainer.global_batch": "32,100"}


def test_data_that_changed_since_the_look_make_another_run(work):
    (work / "rows.jsonl").write_text('{"prompt": "a?", "completion": "b"}\n' * 64)
    overrides = ("data=jsonl", "data.train=rows.jsonl", "data.evaluation=null", "seed=1,2",
                 "data.max_cut_tokens=null")  # fmt: skip
    definition = define(["hardware=cpu", "tracking=none", *overrides])
    points = examine(definition, grid(definition))
    (work / "rows.jsonl").write_text('{"prompt": "a?", "completion": "c"}\n' * 64)

    found = drive(definition, list(points), Launcher())

    assert {p.run_id for p in found.points} == set(found.trials)
    assert {p.run_id for p in points}.isdisjoint(found.trials)


@given(st.text(st.characters(blacklist_categories=("Cs", "Cc")), min_size=1, max_size=30))
@settings(max_examples=60, deadline=None)
def test_any_path_comes_through_hydras_grammar(name):
    path = Path("/runs") / name.replace("/", "_")
    override = job_override(path)
    read = OverridesParser.create().parse_override(override)

    assert read.value() == path.as_posix()
    assert trial_folder([override]) == path


def test_a_queued_trial_of_a_stopped_sweep_does_nothing(work):
    found = swept(Launcher({1: ("interrupted", "")}), "seed=1,2")
    folder = SweepFolder(found.definition.folder)
    folder.stop({"code": "LF716"})
    run = next(folder.path / run_id for run_id in found.trials)
    code = (
        "import sys; from llmforge.sweep.trial import run_trial; "
        "print(run_trial(sys.argv[1]).status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(run)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == Status.INTERRUPTED.value
    assert json.loads((run / "status.json").read_text())["attempts"] == 0


def test_a_run_that_was_finished_by_itself_is_linked_and_not_started(work):
    alone = RunFolder.create(compile_plan(["hardware=cpu", "tracking=none", "seed=1"]))
    alone.write_json("result.json", {"eval_loss": 0.5})
    alone.set_status(Status.FINISHED)
    launcher = Launcher()

    found = swept(launcher, "seed=1,2")

    assert launcher.batches == [[2]]
    link = SweepFolder(found.definition.folder).path / alone.run_id
    assert link.is_symlink()
    assert link.resolve() == alone.path
    assert found.best is not None
    assert found.best.figures == {"eval_loss": 0.5}

    again = Launcher()
    assert swept(again, "seed=1,2").exit_code == 0
    assert again.batches == []


def test_a_link_to_a_run_that_is_gone_is_replaced_by_a_trial(work):
    alone = RunFolder.create(compile_plan(["hardware=cpu", "tracking=none", "seed=1"]))
    alone.write_json("result.json", {"eval_loss": 0.5})
    alone.set_status(Status.FINISHED)
    found = swept(Launcher(), "seed=1,2")
    shutil.rmtree(alone.path)
    again = Launcher()
    swept(again, "seed=1,2")

    assert again.batches == [[1]]
    assert not (SweepFolder(found.definition.folder).path / alone.run_id).is_symlink()
