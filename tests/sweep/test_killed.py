"""Sweeps that are killed, interrupted, or lose a worker: real drivers, workers and signals."""

from __future__ import annotations

import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from llmforge.run.folder import RunFolder
from llmforge.run.status import Status

TINY = (
    "name=tiny data.max_cut_tokens=null model.layers=1 model.hidden=16 model.intermediate=32 "
    "model.heads=2 model.kv_heads=2 model.context=128 tokenizer.vocabulary=300 data.rows=200 "
    "data.max_train_rows=40 data.max_eval_rows=8 trainer.epochs=null trainer.max_steps=4 "
    "trainer.log_every=2 trainer.global_batch=8 trainer.micro_batch=4 evaluation=end "
    "evaluation.exact_match_rows=0 evaluation.samples=0 hardware=cpu tracking=none"
)
SWEEP = "sweep.name=s launch.threads=1 checkpoint.every=20"
PATIENCE = 300.0
OUTPUT = "output.txt"
"""Of the newest driver."""


@pytest.fixture
def start(work: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """`start("seed=1,2")` starts a driver in a session of its own."""
    begun: list[subprocess.Popen[str]] = []

    def driver(line: str) -> subprocess.Popen[str]:
        words = shlex.split(f"sweep {TINY} {SWEEP} {line}")
        # no pipe: processes of a launcher outlive a killed driver, and would keep it open
        with (work / OUTPUT).open("w", encoding="utf-8") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "llmforge", *words],
                cwd=work, stdout=output, stderr=subprocess.STDOUT, text=True,
                start_new_session=True,
                # tests in the background of a shell are deaf to SIGINT; these must hear it
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )  # fmt: skip
        begun.append(process)
        return process

    yield driver
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until(condition: Callable[[], object], driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert driver.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def until_gone(folder: Path) -> None:
    """No process that a killed driver started is left in the folder."""
    deadline = time.monotonic() + PATIENCE
    while left := [p for p in Path("/proc").glob("[0-9]*") if works_in(p, folder)]:
        assert time.monotonic() < deadline, left
        time.sleep(0.2)


def works_in(process: Path, folder: Path) -> bool:
    try:
        return process.name != str(os.getpid()) and (process / "cwd").resolve() == folder
    except OSError:
        return False


def ended(driver: subprocess.Popen[str]) -> tuple[int, str]:
    code = driver.wait(PATIENCE)
    return code, Path(OUTPUT).read_text(encoding="utf-8")  # `work` is the working folder


def trials(work: Path) -> list[RunFolder]:
    lines = (work / "multirun/s/points.jsonl").read_text(encoding="utf-8").splitlines()
    return [RunFolder(work / "multirun/s" / point["run_id"]) for point in map(json.loads, lines)]


def training(work: Path) -> list[RunFolder]:
    """Runs whose worker has taken a step."""
    found = [RunFolder(path.parent) for path in (work / "multirun/s").glob("*/metrics.jsonl")]
    return [run for run in found if run.status() is Status.RUNNING and steps(run)]


def steps(run: RunFolder) -> int:
    return run.journal.read_text(encoding="utf-8").count('"train_loss"')


def table(work: Path) -> str:
    rows = []
    for run in trials(work):
        record = run.record()
        rows.append(f"{run.run_id}  {record.status.value}  attempts {record.attempts}")
    return "\n".join(rows)


def killed_twice(
    start: Callable[..., subprocess.Popen[str]], work: Path, line: str
) -> tuple[dict[str, float], int, str]:
    """A sweep whose driver is killed twice at a random time, and then goes on to its end.

    Returns:
        When each run that was over before the last start had ended; exit code and output of that.
    """
    draw = random.SystemRandom()
    done: dict[str, float] = {}
    for kill in range(2):
        driver = start(line)
        until(lambda: training(work), driver)
        time.sleep(draw.uniform(0.0, 8.0))
        driver.kill()
        driver.wait()
        print(f"after kill {kill + 1}\n{table(work)}")
        done |= {
            run.run_id: (run.path / "result.json").stat().st_mtime
            for run in trials(work)
            if run.status() is Status.FINISHED
        }
    code, out = ended(start(line))
    print(f"after the third start\n{table(work)}\n{out}")
    return done, code, out


@pytest.mark.slow
@pytest.mark.parametrize(("launcher", "at_once"), [("basic", 1), ("joblib", 2)])
def test_a_driver_that_is_killed_twice_repeats_nothing(start, work, launcher, at_once):
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    line = f"seed=1,2,3 trainer.max_steps=300 hydra/launcher={launcher} sweep.at_once={at_once}"
    done, code, out = killed_twice(start, work, line)

    runs = trials(work)
    assert code == 0, out
    assert [run.status() for run in runs] == [Status.FINISHED] * 3
    # a kill ends those that were running at most; what was finished was left alone
    assert sum(run.record().attempts for run in runs) <= 3 + 2 * at_once
    for run in runs:
        if run.run_id in done:
            assert (run.path / "result.json").stat().st_mtime == done[run.run_id]

    until_gone(work)
    code, out = ended(start(line))
    assert code == 0
    assert "3 points · 3 finished before · 0 to run" in out


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(("launcher", "at_once"), [("basic", 1), ("joblib", 2)])
def test_a_search_whose_driver_is_killed_twice_repeats_nothing(start, work, launcher, at_once):
    optuna = pytest.importorskip("optuna")
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    line = (
        "sweep=search sweep.trials=5 sweep.startup=2 'optimizer.lr=tag(log,interval(1e-4,1e-2))' "
        f"lora=none,small trainer.max_steps=200 hydra/launcher={launcher} sweep.at_once={at_once}"
    )
    done, code, out = killed_twice(start, work, line)

    assert code == 0, out
    runs = {run.run_id: run for run in trials(work)}
    assert {run.status() for run in runs.values()} == {Status.FINISHED}
    assert sum(run.record().attempts for run in runs.values()) <= len(runs) + 2 * at_once
    for run_id, at in done.items():
        assert (runs[run_id].path / "result.json").stat().st_mtime == at
    # every trial of the study is one run's, with the figure of its folder
    file = optuna.storages.journal.JournalFileBackend(str(work / "multirun/s/study.journal"))
    told = optuna.load_study(study_name="s", storage=optuna.storages.JournalStorage(file)).trials
    told = [trial for trial in told if "refused" not in trial.user_attrs]
    assert [trial.state.name for trial in told] == ["COMPLETE"] * 5
    for trial in told:
        result = runs[trial.user_attrs["run_id"]].result() or {}
        assert trial.value == result["eval_loss"]

    until_gone(work)
    code, out = ended(start(line))
    assert code == 0
    assert "5 finished before · 0 to run" in out


@pytest.mark.slow
def test_a_killed_worker_is_a_failed_trial_and_the_others_go_on(start, work):
    driver = start("seed=1,2 trainer.max_steps=60")
    until(lambda: training(work), driver)
    (run,) = training(work)
    pid = run.record().pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    code, out = ended(driver)

    first, second = trials(work)
    assert code == 1, out
    assert (first.status(), first.record().code) == (Status.FAILED, "LF804")
    assert second.status() is Status.FINISHED
    assert "FAILED  LF804" in out


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_ctrl_c_saves_the_running_trials_and_the_same_command_goes_on(start, work, launcher):
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    line = f"seed=1,2 trainer.max_steps=400 hydra/launcher={launcher}"
    driver = start(line)
    until(lambda: training(work), driver)
    begun = training(work)
    os.killpg(driver.pid, signal.SIGINT)
    code, out = ended(driver)

    assert code == 130, out
    for run in begun:
        record = run.record()
        assert record.status is Status.INTERRUPTED
        assert "state saved at step" in str(record.reason)
        assert run.checkpoints()

    code, out = ended(start(line))
    assert code == 0, out
    assert [run.status() for run in trials(work)] == [Status.FINISHED] * 2
    assert {run.record().attempts for run in begun} == {2}
