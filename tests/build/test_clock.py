"""Saves by the clock: at the end of the first step after so much time, on all ranks at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmforge.schema.base import seconds_of

pytest.importorskip("torch")

from transformers import TrainerControl

from llmforge.build.clock import SaveByClock


class Watch:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def saves(callback: SaveByClock, watch: Watch, now: float, step: int = 1) -> bool:
    """Does the step that ends `now` ask for a save?"""
    watch.now = now
    control = TrainerControl()
    callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=50), control)
    if control.should_save:
        callback.on_save(None, None, control)
    return control.should_save


@pytest.fixture
def watch() -> Watch:
    return Watch()


@pytest.fixture
def callback(watch: Watch) -> SaveByClock:
    made = SaveByClock(60.0, watch)
    made.on_train_begin(SimpleNamespace(world_size=1), None, None)
    return made


def test_after_so_much_time(callback: SaveByClock, watch: Watch) -> None:
    assert [saves(callback, watch, now) for now in (159, 161, 162, 220, 221)] == [
        *(False, True, False, False, True)
    ]


def test_time_counts_from_any_save(callback: SaveByClock, watch: Watch) -> None:
    watch.now = 150
    callback.on_save(None, None, None)  # one that a stop asked for
    assert not saves(callback, watch, 200)
    assert saves(callback, watch, 210)


def test_the_last_step_is_saved(callback: SaveByClock, watch: Watch) -> None:
    assert saves(callback, watch, 101, step=50)


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("30min", 1800), ("1.5h", 5400), ("10%", None), (30, None)]
)
def test_durations(text: str | int, seconds: float | None) -> None:
    assert seconds_of(text) == seconds


RANKS = """
import json, os, pathlib, sys
from types import SimpleNamespace
import torch
from transformers import TrainerControl
from llmforge.build.clock import SaveByClock
torch.distributed.init_process_group("gloo")
rank = int(os.environ["RANK"])
now = [0.0]
callback = SaveByClock(10.0, lambda: now[0] * (1 if rank == 0 else 100))  # a clock that races
callback.on_train_begin(SimpleNamespace(world_size=2), None, None)
told = []
for step in range(1, 30):
    now[0] = float(step)
    control = TrainerControl()
    callback.on_step_end(None, SimpleNamespace(global_step=step, max_steps=99), control)
    if control.should_save:
        callback.on_save(None, None, control)
        told.append(step)
pathlib.Path(sys.argv[1], f"{rank}.json").write_text(json.dumps(told))
torch.distributed.destroy_process_group()
"""


def test_all_ranks_go_by_one_clock(tmp_path: Path) -> None:
    (tmp_path / "ranks.py").write_text(RANKS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    subprocess.run(
        [*command, str(tmp_path / "ranks.py"), str(tmp_path)],
        check=True,
        capture_output=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    # lines of two processes on one terminal run together, so each has a file of its own
    for rank in (0, 1):
        assert json.loads((tmp_path / f"{rank}.json").read_text()) == [10, 20]
