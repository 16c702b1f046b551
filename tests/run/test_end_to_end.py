"""Real processes, real training, a real database: what a user gets and what a kill leaves."""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run import journal
from llmforge.run.folder import RunFolder
from llmforge.run.launch import run_plan
from llmforge.run.signals import StopFlag
from llmforge.run.status import Status
from llmforge.stages.train import train
from llmforge.track.protocol import NullTracker

torch = pytest.importorskip("torch")

DRIVER = """
import sys
from llmforge.plan import Plan
from llmforge.run.launch import run_plan
outcome = run_plan(Plan.load(sys.argv[1]))
if outcome.diagnostic:
    print(outcome.diagnostic.code, outcome.diagnostic.message, file=sys.stderr)
sys.exit(outcome.exit_code)
"""


def driver(plan: Plan, **options: Any) -> subprocess.Popen[str]:
    """A driver in a process of its own, as on the command line."""
    plan.save("plan.json")
    command = [sys.executable, "-c", DRIVER, "plan.json"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, **{**pipes, **options})


def wait_for_step(run: RunFolder, step: int, seconds: float = 120) -> None:
    """Until the journal holds the step."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(row.step >= step for row, _ in journal.read(run.journal) if not row.mark):
            return
        time.sleep(0.02)
    pytest.fail(f"step {step} never came; the log: {run.log().read_text()[-2000:]}")


def weights(run: RunFolder) -> str:
    return hashlib.sha256((run.model / "model.safetensors").read_bytes()).hexdigest()


def rows(database: str, query: str) -> list[tuple[Any, ...]]:
    with sqlite3.connect(database) as connection:
        return connection.execute(query).fetchall()


def test_one_command_from_plan_to_model(tiny: Callable[..., Plan], work: Path) -> None:
    plan = tiny()
    process = driver(plan)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    run = RunFolder.open(plan.run_folder)

    # the terminal: progress to stderr, outcome to stdout, nothing of the libraries
    assert "12 steps of 8 samples" in err
    assert "before training  held-out loss" in err
    assert "step 12/12  loss" in err
    assert "held-out perplexity" in out
    assert f"everything is in  runs/{plan.run_id}" in out
    assert "llmforge ui" in out
    assert "Warning" not in out + err
    assert "WARNING" not in out + err
    log = run.log().read_text()
    assert log.startswith("==== attempt 1, train, ")
    assert "step 12/12  loss" in log
    assert "\r" not in log

    # the folder
    assert run.status() is Status.FINISHED
    result = run.result()
    assert result
    assert result["steps"] == 12
    assert result["train_loss"] < result["first_train_loss"]
    assert result["eval_loss"] < result["baseline"]["eval_loss"]
    assert result["total_parameters"] == plan.estimate["total_parameters"]
    assert result["warnings"] == []
    assert set(result["samples"][0]) >= {"prompt", "answer", "reference"}
    for name in (
        *("plan.json", "origins.json", "environment.json", "prepare.json", "samples.json"),
        *("metrics.jsonl", "metrics.csv", "README.md", "curve.png", "mlflow.json"),
        *("model/tokenizer.json", "model/config.json", "model/README.md"),
    ):
        assert (run.path / name).is_file(), name
    manifest = json.loads(run.manifest.read_text())["files"]
    assert manifest["model.safetensors"]["sha256"] == weights(run)
    found = {p.relative_to(run.model).as_posix() for p in run.model.rglob("*") if p.is_file()}
    assert set(manifest) == found

    # MLflow
    run_id = run.read_json("mlflow.json")["run_id"]
    ((name, status),) = rows("mlflow.db", "select name, status from runs")
    assert (name, status) == (plan.run_id, "FINISHED")
    logged = rows("mlflow.db", "select step from metrics where key = 'train_loss' order by step")
    assert logged == [(1,), (2,), (4,), (6,), (8,), (10,), (12,)]
    kept = {p.name for p in (work / "mlartifacts" / "llmforge" / run_id).rglob("*") if p.is_file()}
    assert kept >= {"plan.json", "origins.json", "log.txt", "curve.png", "location.json"}
    assert kept >= {"metrics.csv", "README.md"}
    assert not any(name.endswith(".safetensors") for name in kept)

    # the same again: no process, the same result
    began = time.monotonic()
    again = run_plan(plan, quiet=True)
    assert again.reused
    assert again.result == result
    assert time.monotonic() - began < 2


def test_stopped_within_a_step(tiny: Callable[..., Plan]) -> None:
    plan = tiny("trainer.max_steps=400", "trainer.log_every=1", "evaluation.every=100")
    run = RunFolder(plan.run_folder)
    process = driver(plan)
    wait_for_step(run, 9)
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert time.monotonic() - began < 30
    assert "state saved at step" in err
    record = run.record()
    assert (record.status, record.pid) == (Status.INTERRUPTED, None)
    stopped_at = run.checkpoints()[0].step
    assert max(row.step for row, _ in journal.read(run.journal)) == stopped_at
    assert not run.manifest.exists()
    assert rows("mlflow.db", "select status from runs") == [("KILLED",)]


def test_killed_and_resumed_bit_for_bit(tiny: Callable[..., Plan], work: Path) -> None:
    long = ("trainer.max_steps=60", "trainer.log_every=1", "checkpoint.every=7")
    plan = tiny(*long, "evaluation.every=20")
    run = RunFolder(plan.run_folder)
    process = driver(plan)
    wait_for_step(run, 25)
    os.kill(run.record().pid, signal.SIGKILL)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "LF804 the worker was killed by SIGKILL" in err
    assert run.status() is Status.FAILED
    assert rows("mlflow.db", "select status from runs") == [("FAILED",)]
    shipped = rows("mlflow.db", "select count(*) from metrics where key = 'train_loss'")
    assert shipped[0][0] >= 25  # nothing that was measured is lost

    resumed = run_plan(plan, quiet=True)
    assert resumed.exit_code == 0
    assert run.record().attempts == 2
    assert "going on after step" in run.log().read_text()
    steps = rows("mlflow.db", "select step from metrics where key = 'train_loss' order by step")
    assert steps == [(step,) for step in range(1, 61)]  # each once
    assert rows("mlflow.db", "select status from runs") == [("FINISHED",)]

    whole = tiny(*long, "evaluation.every=20", "tracking=none", f"paths.runs={work}/undisturbed")
    assert whole.fingerprint == plan.fingerprint
    undisturbed = RunFolder.create(whole)
    torch.set_num_threads(1)  # as in the workers
    train(whole, undisturbed, NullTracker(), StopFlag())
    assert weights(run) == weights(undisturbed)
    for key in ("eval_loss", "train_loss", "exact_match", "baseline"):
        assert run.result()[key] == undisturbed.result()[key], key


def test_a_worker_ends_when_its_driver_is_killed(tiny: Callable[..., Plan]) -> None:
    plan = tiny("tracking=none", "trainer.max_steps=100000", "checkpoint.every=null")
    run = RunFolder(plan.run_folder)
    process = driver(plan, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for_step(run, 4)
    process.kill()
    process.wait()
    busy = run_plan(plan, quiet=True)  # the worker holds the folder until it has saved
    assert busy.diagnostic is None or busy.diagnostic.code == "LF808"
    deadline = time.monotonic() + 60
    while run.status() is Status.RUNNING and time.monotonic() < deadline:
        time.sleep(0.1)
    assert run.status() is Status.INTERRUPTED
    assert run.checkpoints()


@pytest.mark.slow
def test_the_other_stages(tiny: Callable[..., Plan], capfd: pytest.CaptureFixture[str]) -> None:
    plan = tiny("trainer.max_steps=4", "lora=small", "lora.r=2")
    assert run_plan(plan, "prepare").exit_code == 0
    assert "40 rows = 40 used + 0 rejected" in capfd.readouterr().out
    run = RunFolder.open(plan.run_folder)
    assert run.status() is Status.CREATED
    assert (run.read_json("mlflow.json") or {})["closed"] == Status.CREATED.value
    assert run_plan(plan, quiet=True).exit_code == 0
    assert capfd.readouterr() == ("", "")
    assert run_plan(plan, "evaluate").exit_code == 0
    measured, result = run.read_json("evaluation.json"), run.result()
    for key in ("eval_loss", "eval_perplexity", "exact_match"):
        assert measured[key] == pytest.approx(result[key], rel=1e-6), key
    assert "eval_perplexity" in capfd.readouterr().out
    assert run.status() is Status.FINISHED
    assert rows("mlflow.db", "select status from runs") == [("FINISHED",)]


@pytest.mark.slow
def test_a_storm_of_kills(tiny: Callable[..., Plan], work: Path) -> None:
    """A checkpoint every step, so that about every second kill falls into a save."""
    often = ("trainer.max_steps=120", "trainer.log_every=1", "checkpoint.every=1")
    plan = tiny(*often, "tracking=none", "evaluation=end")
    run = RunFolder(plan.run_folder)
    chance = random.Random(0)  # noqa: S311 - moments, not secrets
    reached = 0
    for _ in range(6):
        process = driver(plan, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for_step(run, reached + 5)
        time.sleep(chance.uniform(0, 0.2))
        os.kill(run.record().pid, signal.SIGKILL)
        assert process.wait(60) == 1
        newest = run.checkpoints()[0].step
        assert newest >= reached  # nothing whole is ever lost
        reached = max(row.step for row, _ in journal.read(run.journal))
        assert reached - newest <= 2
    assert run_plan(plan, quiet=True).exit_code == 0

    whole = tiny(*often, "tracking=none", "evaluation=end", f"paths.runs={work}/undisturbed")
    undisturbed = RunFolder.create(whole)
    torch.set_num_threads(1)
    train(whole, undisturbed, NullTracker(), StopFlag())
    assert weights(run) == weights(undisturbed)


@pytest.mark.slow
def test_two_processes_stopped_and_resumed(tiny: Callable[..., Plan], work: Path) -> None:
    two = (
        *("launch=torchrun", "launch.processes=2", "trainer.accumulation=1", "trainer.log_every=1"),
        *("trainer.max_steps=60", "evaluation.every=null", "checkpoint.every=null"),
    )
    plan = tiny(*two)
    run = RunFolder(plan.run_folder)
    process = driver(plan)
    wait_for_step(run, 9)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert run.log(1).is_file()
    assert run_plan(plan, quiet=True).exit_code == 0
    assert rows("mlflow.db", "select count(*) from runs") == [(1,)]

    whole = tiny(*two, "tracking=none", f"paths.runs={work}/undisturbed")
    assert run_plan(whole, quiet=True).exit_code == 0
    assert weights(run) == weights(RunFolder(whole.run_folder))


def test_data_that_changed_since_the_plan(tiny: Callable[..., Plan], work: Path) -> None:
    row = '{"prompt": "two and two?", "completion": "four"}\n'
    (work / "rows.jsonl").write_text(row * 40, encoding="utf-8")
    from llmforge import compile as compile_plan

    plan = tiny("tracking=none")
    overrides = [o for o in plan.overrides if not o.startswith("data.")]
    plan = compile_plan([*overrides, "data=jsonl", "data.train=rows.jsonl"])
    (work / "rows.jsonl").write_text(row * 41, encoding="utf-8")
    outcome = run_plan(plan, quiet=True)
    assert outcome.exit_code == 1
    assert outcome.diagnostic
    assert outcome.diagnostic.code == "LF806"
    assert "rows.jsonl" in outcome.diagnostic.message
    log = RunFolder.open(outcome.folder).log().read_text()
    assert "Traceback" in log


def test_no_secret_is_written_anywhere(
    tiny: Callable[..., Plan], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    canary = "canary-8d1f0c9e"
    monkeypatch.setenv("HF_TOKEN", canary)
    monkeypatch.setenv("MY_TOKEN", canary)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody is there
    plan = tiny(
        *("trainer.max_steps=4", "tracking.token=env:MY_TOKEN", "evaluation.at_start=false"),
        *("hub=push", "hub.repository=me/model", "hub.attempts=1", "hub.check=false"),
    )
    process = driver(plan)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert "warning[LF924]: the hub was not reached" in out
    assert canary not in out + err
    result = RunFolder.open(plan.run_folder).result()
    assert [warning["code"] for warning in result["warnings"]] == ["LF924"]
    leaks = [p for p in work.rglob("*") if p.is_file() and canary.encode() in p.read_bytes()]
    assert leaks == []
