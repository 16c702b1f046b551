"""A run that is killed again and again, most often inside a save, ends as if nothing had happened.

One process imports the libraries and forks a child for each attempt, so that an attempt costs a
second and not ten. In the children every flush of a save takes some milliseconds longer, which
makes saves long enough to be hit at all of their files.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run import checkpoints, sealing
from llmforge.run.folder import RunFolder
from llmforge.run.signals import StopFlag
from llmforge.track.protocol import NullTracker

torch = pytest.importorskip("torch")

INSIDE_A_SAVE = 0.4
"""Least share of kills that must fall into one."""

STORM = r"""
import json, os, random, signal, sys, time
from pathlib import Path
import torch
torch.set_num_threads(1)
import llmforge.build.trainer, llmforge.build.rehearsal, llmforge.stages.evaluate
from llmforge.run import checkpoints, sealing
from llmforge.run.folder import RunFolder
from llmforge.run.signals import StopFlag
from llmforge.stages.train import train
from llmforge.track.protocol import NullTracker

folder, kills, delay = Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])
chance = random.Random(1)
run = RunFolder.open(folder)
plan = run.plan()
flush = sealing.flush

def slow(path):
    time.sleep(delay)
    flush(path)

def attempt():
    sealing.flush = slow
    log = os.open(run.log(), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    try:
        train(plan, run, NullTracker(), StopFlag())
    except BaseException:
        import traceback
        traceback.print_exc()
        os._exit(1)
    os._exit(0)

def staged():
    return {p.name for p in run.checkpoint_folder.glob(".checkpoint-*")}

def wait_until(child, happened):
    while not happened():
        if os.waitpid(child, os.WNOHANG)[0]:
            return False
        time.sleep(0.0005)
    return True

def newest():
    return max((c.step for c in checkpoints.scan(run.checkpoint_folder) if not c.fault), default=0)

def kill_once(goal):
    before = newest()
    left_behind = staged()
    child = os.fork()
    if child == 0:
        attempt()
    # some saves after the one it began with, so that the run gets on
    alive = wait_until(child, lambda: newest() >= before + goal)
    if alive and chance.random() < 0.8:
        alive = wait_until(child, lambda: staged() - left_behind)
        time.sleep(chance.uniform(0, 12 * delay))
    elif alive:
        time.sleep(chance.uniform(0, 0.05))
    if not alive:
        return None
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return {"before": before, "after": newest(), "inside": bool(staged())}

told = []
for number in range(kills):
    found = kill_once(1)
    if found is None:
        break
    told.append(found)
child = os.fork()
if child == 0:
    attempt()
code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
print(json.dumps({"kills": told, "code": code}))
"""


def weights(run: RunFolder) -> dict[str, bytes]:
    return {
        path.relative_to(run.model).as_posix(): path.read_bytes()
        for path in sorted(run.model.rglob("*.safetensors"))
    }


def run_of(plan: Plan, parent: Path) -> RunFolder:
    run = RunFolder(parent / plan.run_id)
    run.path.mkdir(parents=True)
    plan.save(run.plan_file)
    return run


def undisturbed(plan: Plan, parent: Path) -> RunFolder:
    from llmforge.stages.train import train

    torch.set_num_threads(1)
    run = run_of(plan, parent)
    train(plan, run, NullTracker(), StopFlag())
    return run


def storm(plan: Plan, parent: Path, kills: int, delay: float = 0.004) -> tuple[RunFolder, int, int]:
    """The run after so many kills; how many there were, and how many of them inside a save."""
    run = run_of(plan, parent)
    script = parent / "storm.py"
    script.write_text(STORM, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(script), str(run.path), str(kills), str(delay)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    assert told["code"] == 0, run.log().read_text(encoding="utf-8")[-3000:]
    for kill in told["kills"]:
        assert kill["after"] >= kill["before"], "nothing whole is ever lost"
    return run, len(told["kills"]), sum(kill["inside"] for kill in told["kills"])


def compare(run: RunFolder, whole: RunFolder) -> None:
    assert weights(run) == weights(whole)
    found, expected = run.result(), whole.result()
    assert found
    assert expected
    for key in ("steps", "eval_loss", "train_loss"):
        assert found[key] == expected[key], key
    assert not list(run.checkpoint_folder.glob(".*")), "nothing half-written is left"
    newest = run.checkpoints()[0]
    assert checkpoints.verify(newest) is None
    assert sealing.facts(newest.path)["step"] == newest.step


TINY = (
    *("name=storm", "tracking=none", "hardware=cpu", "launch.threads=1"),
    *("model.layers=1", "model.hidden=16", "model.intermediate=32", "model.heads=2"),
    *("model.kv_heads=2", "model.context=128", "tokenizer.vocabulary=300"),
    *("data.rows=200", "data.max_train_rows=40", "data.max_eval_rows=8"),
    *("data.max_cut_tokens=null", "trainer.epochs=null", "trainer.log_every=1"),
    *("trainer.global_batch=8", "checkpoint.every=1", "evaluation=end"),
    *("evaluation.samples=0", "evaluation.exact_match_rows=2", "generation.max_new_tokens=4"),
)
"""A checkpoint at every step of a few thousand weights."""

MODES = {
    "full": ("trainer.micro_batch=4", "trainer.accumulation=2"),
    "lora": ("trainer.micro_batch=8", "lora=small", "lora.r=2", "lora.dropout=0.5"),
    "accumulation 4": ("trainer.micro_batch=2", "trainer.accumulation=4"),
    "packed": ("trainer.micro_batch=8", "collator.packing=best_fit"),
}


@pytest.fixture
def plan_of(work: Path) -> Callable[..., Plan]:
    """`plan_of("lora", 30)`: the plan of a mode, over so many steps."""
    from llmforge import compile as compile_plan

    def make(mode: str, steps: int) -> Plan:
        places = (f"paths.runs={work / 'runs'}", f"paths.cache={work / '.llmforge'}")
        return compile_plan([*TINY, *MODES[mode], f"trainer.max_steps={steps}", *places])

    return make


def test_ten_kills(plan_of: Callable[..., Plan], tmp_path: Path) -> None:
    plan = plan_of("lora", 30)
    run, kills, inside = storm(plan, tmp_path / "storm", 10)
    assert kills == 10
    assert inside >= INSIDE_A_SAVE * kills
    compare(run, undisturbed(plan, tmp_path / "whole"))


@pytest.mark.slow
@pytest.mark.parametrize("mode", sorted(MODES))
def test_two_hundred_kills(plan_of: Callable[..., Plan], tmp_path: Path, mode: str) -> None:
    plan = plan_of(mode, 120)
    run, kills, inside = storm(plan, tmp_path / "storm", 50)
    print(f"{mode}: {kills} kills, {inside} inside a save")
    assert kills == 50
    assert inside >= INSIDE_A_SAVE * kills
    compare(run, undisturbed(plan, tmp_path / "whole"))
