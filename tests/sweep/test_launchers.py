"""Trials through Hydra's launchers: results, shares of the machine, and launchers that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from llmforge import installed
from llmforge.compiler.passes import compile_plan
from llmforge.compose.hydra_link import registered
from llmforge.run.environment import cores
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep.definition import define
from llmforge.sweep.driver import drive
from llmforge.sweep.jobs import Place, place_of, place_override, trial_folder
from llmforge.sweep.launchers import ENGINES, QUEUED, at_once, faults, is_streamed
from llmforge.sweep.preflight import examine, grid
from llmforge.sweep.sharing import shares
from llmforge.sweep.swept import Swept

TINY = (
    "name=tiny data.max_cut_tokens=null model.layers=1 model.hidden=16 model.intermediate=32 "
    "model.heads=2 model.kv_heads=2 model.context=128 tokenizer.vocabulary=300 data.rows=200 "
    "data.max_train_rows=40 data.max_eval_rows=8 trainer.epochs=null trainer.max_steps=4 "
    "trainer.log_every=2 trainer.global_batch=8 trainer.micro_batch=4 checkpoint.every=null "
    "evaluation=end evaluation.exact_match_rows=0 evaluation.samples=0 hardware=cpu tracking=none"
)
SMALL = ("hardware=cpu", "tracking=none")


def needs(name: str) -> None:
    package = ENGINES[name].package
    if package is not None and installed.installed_version(package) is None:
        pytest.skip(f"{package} is not installed: pip install 'llmforge[{ENGINES[name].extra}]'")


def trials(folder: Path) -> list[RunFolder]:
    lines = (folder / "points.jsonl").read_text(encoding="utf-8").splitlines()
    return [RunFolder(folder / point["run_id"]) for point in map(json.loads, lines)]


def losses(folder: Path) -> list[float]:
    return [(run.result() or {})["eval_loss"] for run in trials(folder)]


@pytest.mark.slow
def test_two_trials_side_by_side_with_joblib(llmforge, work):
    needs("joblib")
    ran = llmforge(
        f"sweep {TINY} seed=1,2 sweep.name=s hydra/launcher=joblib hydra.launcher.n_jobs=2"
    )

    assert ran.code == 0, ran.err
    runs = trials(work / "multirun" / "s")
    assert [run.status() for run in runs] == [Status.FINISHED] * 2
    # both use one prepared set of samples, which one of them made
    assert sorted((run.read_json("prepare.json") or {})["reused"] for run in runs) == [False, True]
    if cores() > 1:
        shared = {(r.read_json("environment.json") or {})["environment"]["OMP_NUM_THREADS"]
                  for r in runs}  # fmt: skip
        assert shared == {str(max(1, cores() // 2))}
    again = llmforge(
        f"sweep {TINY} seed=1,2 sweep.name=s hydra/launcher=joblib hydra.launcher.n_jobs=2"
    )
    assert "2 finished before · 0 to run" in again.out
    assert [run.record().attempts for run in runs] == [1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["joblib", "submitit_local", "llmforge_ray"])
def test_four_trials_come_out_the_same_through_each_launcher(llmforge, work, name):
    needs(name)
    line = f"sweep {TINY} seed=1,2,3,4 launch.threads=1"
    alone = llmforge(f"{line} sweep.name=alone")
    beside = llmforge(f"{line} sweep.name=beside hydra/launcher={name}")

    assert (alone.code, beside.code) == (0, 0), beside.err
    assert losses(work / "multirun" / "beside") == losses(work / "multirun" / "alone")
    if name == "llmforge_ray":
        import psutil
        import ray

        # Ray ends a process that misses its servers, and a sweep has things to do behind its trials
        assert "gcs_server" in {process.name() for process in psutil.Process().children()}
        ray.shutdown()


class Breaks:
    """A launcher that does its first jobs and then dies."""

    def __init__(self, done: int) -> None:
        self.done = done

    def __call__(self, jobs: list[list[str]], first: int) -> Sequence[object]:
        del first
        for job in jobs[: self.done]:
            folder = trial_folder(job)
            assert folder is not None
            run = RunFolder.open(folder)
            run.write_json("result.json", {"eval_loss": 1.0})
            run.set_status(Status.FINISHED)
        for job in jobs[self.done :]:
            folder = trial_folder(job)
            assert folder is not None
            if self.done:
                RunFolder.open(folder).set_status(Status.FAILED, code="LF804", reason="killed")
        raise OSError("no such queue")


def swept(launch: Breaks, *overrides: str) -> Swept:
    definition = define([*SMALL, *overrides])
    return drive(definition, examine(definition, grid(definition)), launch, 2)


def test_a_launcher_that_starts_nothing_stops_the_sweep(work):
    found = swept(Breaks(0), "seed=1,2,3,4")

    assert found.stopped is not None
    assert found.stopped.code == "LF732"
    assert "no such queue" in found.stopped.message
    assert len(found.trials) == 2


def test_what_became_of_trials_counts_when_a_launcher_dies(work):
    found = swept(Breaks(1), "seed=1,2,3,4")

    assert found.stopped is None
    assert [d.code for d in found.warnings] == ["LF732", "LF732"]
    assert [t.status for t in found.trials.values()] == ["FINISHED", "FAILED"] * 2


def test_known_launchers_are_accepted_and_others_refused(work, monkeypatch):
    assert faults(["hydra/launcher=basic"], ()) == []
    assert [d.code for d in faults(["hydra/launcher=basik"], ())] == ["LF731"]
    monkeypatch.setattr(installed, "installed_version", lambda _: None)
    (found,) = faults(["hydra/launcher=llmforge_ray"], ())
    assert found.code == "LF730"
    assert found.notes == ("pip install 'llmforge[ray]'",)


def test_a_launcher_of_ones_own_folder_is_known(work):
    own = work / "mine" / "hydra" / "launcher"
    own.mkdir(parents=True)
    (own / "cluster.yaml").write_text("_target_: mine.Cluster\n", encoding="utf-8")

    assert faults(["hydra/launcher=cluster"], ("mine",)) == []
    assert [d.code for d in faults(["hydra/launcher=cluster"], ())] == ["LF731"]


def test_ours_for_ray_is_found_by_hydra():
    assert {"basic", "llmforge_ray"} <= set(registered("hydra", "launcher"))


def test_a_job_is_told_its_place():
    assert place_of(["+sweep_trial=x", place_override(1, 2)]) == Place(1, 2, os.getpid())
    assert place_of(["+sweep_trial=x"]) == Place(0, 1)


def test_a_pools_process_ends_when_its_driver_was_gone_before_it_began():
    driver = subprocess.Popen([sys.executable, "-c", ""])
    driver.wait()
    code = (
        "import sys, time; from llmforge.sweep.jobs import Place, in_company\n"
        f"with in_company(Place(0, 2, {driver.pid})): time.sleep(2); print('done', flush=True)\n"
        "time.sleep(170)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=180
    )
    assert done.stdout == "done\n"  # the trial at hand came to its end


def test_devices_and_threads_are_divided(work, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    plan = compile_plan(["hardware=h100_80gb", "hardware.count=2", "tracking=none"])

    assert [shares(plan, n, 2)["CUDA_VISIBLE_DEVICES"] for n in range(3)] == ["4", "5", "4"]
    assert shares(plan, 0, 2)["OMP_NUM_THREADS"] == str(max(1, cores() // 2))
    assert shares(plan, 0, 1) == {}
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert "OMP_NUM_THREADS" not in shares(plan, 0, 2)


def test_no_more_trials_at_once_than_devices(work):
    joblib = {"_target_": "hydra_plugins.hydra_joblib_launcher.JoblibLauncher", "n_jobs": 8}
    definition = define(["hardware=h100_80gb", "hardware.count=2", "tracking=none", "seed=1,2,3"])
    points = examine(definition, grid(definition))

    assert at_once(definition, points, joblib) == 2
    basic = {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"}
    assert at_once(definition, points, basic) == 1


SLURM = {"_target_": "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
         "array_parallelism": 7}  # fmt: skip


def test_a_queue_of_a_cluster_gets_a_grid_whole_and_a_search_in_batches_it_learns_from(work):
    definition = define([*SMALL, "seed=1,2,3"])
    points = examine(definition, grid(definition))
    assert at_once(definition, points, SLURM) == QUEUED
    assert not is_streamed(SLURM)

    rate = "optimizer.lr=interval(1e-4,1e-3)"
    search = define([*SMALL, rate, "sweep=search", "sweep.startup=5"])
    assert at_once(search, [], SLURM) == 5
    assert at_once(define([*SMALL, rate, "sweep=search", "sweep.startup=9"]), [], SLURM) == 7
    asked = define([*SMALL, rate, "sweep=search", "sweep.at_once=3"])
    assert at_once(asked, [], SLURM) == 3


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("hydra_joblib_launcher.joblib_launcher.JoblibLauncher", {"n_jobs": 2}),
        ("hydra_submitit_launcher.submitit_launcher.LocalLauncher", {}),
        ("llmforge_ray_launcher.LlmforgeRayLauncher", {"num_cpus": 0.5}),
    ],
)
def test_launchers_of_this_machine_are_called_for_each_trial(name, settings, work, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 2)
    launcher = {"_target_": f"hydra_plugins.{name}", **settings}
    assert is_streamed(launcher)
    definition = define([*SMALL, "seed=1,2,3", "sweep.at_once=64"])
    assert 2 <= at_once(definition, [], launcher) <= 4  # no more than there are processes
