"""A worker that gets a signal in any phase ends as asked, and the same command ends the run.

One process imports the libraries and forks a child for each attempt. A child stops for a moment
where a phase begins and says so; then the signal is sent. What runs in it is the worker's own
`main`: its signal handlers, statuses and exit codes.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run import checkpoints
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status

torch = pytest.importorskip("torch")

FORKS = r"""
import json, os, shutil, signal, sys, time, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)
import llmforge.build.load, llmforge.build.parts, llmforge.build.rehearsal, llmforge.build.trainer
import llmforge.stages.evaluate, llmforge.stages.generate, llmforge.stages.prepare
import llmforge.stages.train
from llmforge.run import folder, outcome, sealing, worker
from llmforge.store import prepared_folder

PHASES = {
    "preparing": (llmforge.stages.prepare, "_write_samples", 1),
    "building the model": (llmforge.build.parts, "_with_adapter", 1),
    "measuring the untrained model": (llmforge.stages.train, "measure_untrained", 1),
    "the dry save": (llmforge.build.rehearsal, "compare", 1),
    "a training step": (llmforge.build.trainer.ForgeTrainer, "training_step", 11),
    "an evaluation": (llmforge.build.trainer.ForgeTrainer, "prediction_step", 1),
    "a save": (sealing, "seal", 2),
    "the final evaluation": (llmforge.stages.evaluate, "evaluate", 2),
    "generating answers": (llmforge.stages.evaluate, "_answers", 2),
    "the final save": (llmforge.build.load, "swap", 1),
    "the manifest": (outcome, "write_manifest", 1),
}

def pause_at(place, name, count, mark):
    original, seen = getattr(place, name), [0]
    def pausing(*args, **kwargs):
        seen[0] += 1
        if seen[0] == count:
            mark.touch()
            time.sleep(0.4)
        return original(*args, **kwargs)
    setattr(place, name, pausing)

def attempt(path, phase, mark):
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 99
    try:
        if phase:
            pause_at(*PHASES[phase], mark)
        if phase == "preparing":
            plan = folder.RunFolder.open(path).plan()
            done = prepared_folder(plan.spec.paths.cache, plan.stages["prepare"])
            shutil.rmtree(done, ignore_errors=True)
        code = worker.main([str(path)])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

def wait(child, mark=None, limit=120):
    until = time.monotonic() + limit
    while time.monotonic() < until:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        if mark is not None and mark.exists():
            return None
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return "too long"

def run(path, phase, name):
    mark = path / "mark"
    child = os.fork()
    if child == 0:
        attempt(path, phase, mark)
    if not phase:
        return wait(child)
    early = wait(child, mark)
    if early is not None:
        return ["never came to it", early]
    os.kill(child, getattr(signal, name))
    return wait(child)

for line in sys.stdin:
    print(json.dumps(run(Path((task := json.loads(line))[0]), *task[1:])), flush=True)
"""

SAVED = {
    "preparing": 0,
    "building the model": 0,
    "measuring the untrained model": 0,
    "the dry save": 0,
    "a training step": 5,
    "an evaluation": 4,
    "a save": 8,
    "the final evaluation": 12,
    "generating answers": 12,
    "the final save": 12,
    "the manifest": 12,
}
"""Phase -> step of the newest checkpoint afterwards. A training step accumulates two micro batches,
and is dropped half-way: the eleventh is the first of the sixth step. The dry save and a save are
finished, and the step after them dropped."""

SIGNALS = ("SIGUSR1", "SIGTERM", "SIGUSR2", "SIGINT")


@pytest.fixture(scope="module")
def forks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """`forks(folder, phase, signal)`: the exit code of an attempt; no phase is never disturbed."""
    script = tmp_path_factory.mktemp("forks") / "forks.py"
    script.write_text(FORKS, encoding="utf-8")
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    server = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    assert server.stdin
    assert server.stdout

    def ask(folder: Path, phase: str | None = None, name: str | None = None) -> Any:
        server.stdin.write(json.dumps([str(folder), phase, name]) + "\n")
        server.stdin.flush()
        return json.loads(server.stdout.readline())

    yield ask
    server.stdin.close()
    server.wait(30)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    from llmforge import compile as compile_plan

    work = tmp_path_factory.mktemp("plan")
    return compile_plan(
        [
            *("name=signals", "tracking=none", "hardware=cpu", "launch.threads=1"),
            *("model.layers=1", "model.hidden=16", "model.intermediate=32", "model.heads=2"),
            *("model.kv_heads=2", "model.context=128", "tokenizer.vocabulary=300"),
            *("data.rows=200", "data.max_train_rows=40", "data.max_eval_rows=8"),
            *("data.max_cut_tokens=null", "trainer.epochs=null", "trainer.max_steps=12"),
            *("trainer.global_batch=8", "trainer.micro_batch=4", "trainer.accumulation=2"),
            *("checkpoint.every=4", "evaluation.every=4", "evaluation.samples=1"),
            *("evaluation.exact_match_rows=2", "generation.max_new_tokens=4"),
            *("lora=small", "lora.r=2", "lora.dropout=0.5"),
            *(f"paths.runs={work / 'runs'}", f"paths.cache={work / 'cache'}"),
        ]
    )


def folder_of(plan: Plan, parent: Path) -> RunFolder:
    run = RunFolder(parent / plan.run_id)
    run.path.mkdir(parents=True)
    plan.save(run.plan_file)
    return run


def weights(run: RunFolder) -> dict[str, bytes]:
    return {
        path.relative_to(run.model).as_posix(): path.read_bytes()
        for path in sorted(run.model.rglob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def undisturbed(forks: Callable[..., Any], plan: Plan, tmp_path_factory: Any) -> RunFolder:
    run = folder_of(plan, tmp_path_factory.mktemp("undisturbed"))
    assert forks(run.path) == 0, run.log().read_text()[-3000:]
    return run


def disturb(
    forks: Callable[..., Any], plan: Plan, whole: RunFolder, parent: Path, phase: str, name: str
) -> None:
    run = folder_of(plan, parent)
    assert forks(run.path, phase, name) == 130, run.log().read_text()[-3000:]
    record = run.record()
    assert record.status is Status.INTERRUPTED
    assert record.reason
    assert record.reason.startswith(f"{name}; ")
    assert max((c.step for c in run.checkpoints()), default=0) == SAVED[phase]
    assert not run.manifest.exists()

    assert forks(run.path) == 0, run.log().read_text()[-3000:]
    assert run.status() is Status.FINISHED
    assert weights(run) == weights(whole)
    assert run.result()["eval_loss"] == whole.result()["eval_loss"]
    assert all(checkpoints.verify(kept) is None for kept in run.checkpoints())
    assert not list(run.path.glob(".*.tmp"))


@pytest.mark.parametrize(
    ("phase", "name"), [*zip(SAVED, itertools.cycle(SIGNALS[:3]), strict=False)]
)
def test_every_phase(forks, plan, undisturbed, tmp_path: Path, phase: str, name: str) -> None:
    disturb(forks, plan, undisturbed, tmp_path, phase, name)


def the_others() -> Sequence[tuple[str, str]]:
    tried = set(zip(SAVED, itertools.cycle(SIGNALS[:3]), strict=False))
    return [pair for pair in itertools.product(SAVED, SIGNALS) if pair not in tried]


@pytest.mark.slow
@pytest.mark.parametrize(("phase", "name"), the_others())
def test_every_signal_in_every_phase(
    forks, plan, undisturbed, tmp_path: Path, phase: str, name: str
) -> None:
    disturb(forks, plan, undisturbed, tmp_path, phase, name)
