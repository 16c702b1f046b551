"""A save that fails at any of its files costs the steps since the last one, and nothing else.

The run folder lies on a file system that fails where it is told to (`faulty_disk.py`), so disk
full, I/O errors, short writes and failing flushes come from the kernel, in Python's, Rust's and
C++'s writes alike. One process imports the libraries and forks a child for each attempt, which runs
the worker's own `main`.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run import checkpoints, sealing
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status

torch = pytest.importorskip("torch")

DISK = Path(__file__).with_name("faulty_disk.py")

FORKS = r"""
import json, os, sys, traceback
from pathlib import Path
import torch
torch.set_num_threads(1)
import llmforge.build.load, llmforge.build.rehearsal, llmforge.stages.evaluate
import llmforge.stages.train
from llmforge.run import worker

def attempt(path):
    log = os.open(os.devnull, os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 99
    try:
        code = worker.main([path])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        attempt(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""

FILES = (
    *("adapter_model.safetensors", "adapter_config.json", "README.md", "generation_config.json"),
    *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"),
    *("optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"),
    *(checkpoints.PLAN, sealing.MANIFEST),
)
"""Every file of a checkpoint; that these are all is asserted below."""

FAULTS = ("ENOSPC", "EIO", "short", "fsync")


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Callable[..., None]]]:
    """A mounted folder, and `fail(name, what)`; `fail()` mends it."""
    place = tmp_path_factory.mktemp("disk")
    folder, backing, control = place / "mounted", place / "files", place / "control.json"
    folder.mkdir()
    backing.mkdir()
    control.write_text("{}")
    server = subprocess.Popen(
        [sys.executable, str(DISK), str(folder), str(backing), str(control)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert server.stdout
    assert server.stderr
    if server.stdout.readline() != "mounted\n":
        pytest.skip(f"no FUSE here: {server.stderr.read().splitlines()[-1]}")

    def fail(name: str | None = None, what: str = "") -> None:
        told = {"under": ".checkpoint-8.tmp", "name": name, "what": what} if name else {}
        staged = control.with_suffix(".new")
        staged.write_text(json.dumps(told))
        staged.replace(control)  # the disk reads it at any moment

    yield folder, fail
    _tools().unmount(folder)
    server.wait(60)


def _tools() -> Any:
    spec = importlib.util.spec_from_file_location("faulty_disk", DISK)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def attempt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[RunFolder], int]]:
    script = tmp_path_factory.mktemp("forks") / "forks.py"
    script.write_text(FORKS, encoding="utf-8")
    server = subprocess.Popen(
        [sys.executable, str(script)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert server.stdin
    assert server.stdout

    def run(folder: RunFolder) -> int:
        server.stdin.write(json.dumps(str(folder.path)) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    yield run
    server.stdin.close()
    server.wait(30)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    from llmforge import compile as compile_plan

    work = tmp_path_factory.mktemp("plan")
    made = compile_plan(
        [
            *("name=faults", "tracking=none", "hardware=cpu", "launch.threads=1"),
            *("model.layers=1", "model.hidden=16", "model.intermediate=32", "model.heads=2"),
            *("model.kv_heads=2", "model.context=128", "tokenizer.vocabulary=300"),
            *("data.rows=200", "data.max_train_rows=40", "data.max_eval_rows=8"),
            *("data.max_cut_tokens=null", "trainer.epochs=null", "trainer.max_steps=12"),
            *("trainer.global_batch=8", "trainer.micro_batch=8", "checkpoint.every=4"),
            *("evaluation=end", "evaluation.samples=0", "evaluation.exact_match_rows=0"),
            *("evaluation.at_start=false", "lora=small", "lora.r=2", "lora.dropout=0.5"),
            *(f"paths.runs={work / 'runs'}", f"paths.cache={work / 'cache'}"),
        ]
    )
    Path(made.run_folder).mkdir(parents=True)  # the one whose free space is told
    return made


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
def undisturbed(attempt, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    run = folder_of(plan, tmp_path_factory.mktemp("undisturbed"))
    assert attempt(run) == 0, run.log().read_text()[-3000:]
    return run


def test_these_are_all_files(undisturbed: RunFolder) -> None:
    for kept in undisturbed.checkpoints():
        found = {path.name for path in kept.path.rglob("*") if path.is_file()}
        assert found == set(FILES)


def spoil(disk: Any, attempt: Any, plan: Plan, whole: RunFolder, name: str, what: str) -> str:
    """One fault, and the same command once more; the message in between."""
    folder, fail = disk
    run = folder_of(plan, folder / f"{name}-{what}")
    # weights are written under a name of the library's own, which is then changed
    hidden = name.endswith(".safetensors") and what != "fsync"
    fail(".tmp*" if hidden else name, what)
    code = attempt(run)
    fail()
    record = run.record()
    assert (code, record.status) == (1, Status.FAILED), run.log().read_text()[-3000:]
    assert record.code == "LF822"
    assert [kept.step for kept in run.checkpoints()] == [4]
    assert checkpoints.verify(run.checkpoints()[0]) is None
    assert not list(run.checkpoint_folder.glob(".*")), "room is given back"

    assert attempt(run) == 0, run.log().read_text()[-3000:]
    assert run.status() is Status.FINISHED
    assert weights(run) == weights(whole)
    shutil.rmtree(run.path)
    assert record.diagnostic
    return json.dumps(record.diagnostic)


def check(told: str, name: str, what: str) -> None:
    assert "the checkpoint of step 8 could not be written" in told
    weights_file = name.endswith(".safetensors")
    assert name in told or (weights_file and "(its weights)" in told), "the file is named"
    assert "are free on the file system" in told
    assert "a checkpoint takes about" in told
    word = "Input/output error" if what in ("EIO", "fsync") else "No space left on device"
    # torch's writer tells of a failed write, not why
    assert word in told or name.endswith((".pt", ".pth")), told


ROTATED = [*zip(FILES, itertools.cycle(FAULTS), strict=False)]


@pytest.mark.parametrize(("name", "what"), ROTATED)
def test_every_file(disk, attempt, plan, undisturbed, name: str, what: str) -> None:
    check(spoil(disk, attempt, plan, undisturbed, name, what), name, what)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "what"), [pair for pair in itertools.product(FILES, FAULTS) if pair not in ROTATED]
)
def test_every_fault_at_every_file(disk, attempt, plan, undisturbed, name: str, what: str) -> None:
    check(spoil(disk, attempt, plan, undisturbed, name, what), name, what)
