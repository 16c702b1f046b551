"""Training on a stream: what is learnt is what a prepared set would teach, stopped or not.

Plans are compiled; `train` runs in this process. Rows are enough to be read beyond the first 1,000,
at which the compiler looks.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run.failures import diagnose
from llmforge.run.folder import RunFolder
from llmforge.run.signals import StopFlag, StopRequested
from llmforge.track.protocol import NullTracker

torch = pytest.importorskip("torch")

TINY = (
    "model=small_llama",
    "model.layers=1",
    "model.hidden=16",
    "model.intermediate=32",
    "model.heads=2",
    "model.kv_heads=2",
    "model.context=128",
    "data=jsonl",
    "data.train=rows.jsonl",
    "data.evaluation={plus: plus.jsonl, minus: minus.jsonl}",
    "data.max_overlap=null",
    "trainer.epochs=null",
    "trainer.max_steps=10",
    "trainer.global_batch=8",
    "trainer.micro_batch=4",
    "trainer.group_by_length=false",
    "trainer.log_every=1",
    "checkpoint.every=4",
    "evaluation.every=5",
    "evaluation.at_start=false",
    "evaluation.exact_match_rows=2",
    "evaluation.samples=1",
    "generation.max_new_tokens=4",
    "hardware=cpu",
    "launch.threads=1",
    "tracking=none",
)

STREAMED = ("data.streaming=true", "data.eval_fraction=0")

DROPOUT = ("lora=small", "lora.dropout=0.5", "lora.r=2")
"""Dropout draws from the global generator: a wrong random state after a resume shows."""


def row(number: int, sign: str = "+") -> str:
    result = number + number if sign == "+" else 0
    pair = {"prompt": f"{number} {sign} {number}?", "completion": f"{result}"}
    return json.dumps(pair) + "\n"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory, gpt2_like: Path) -> Path:
    """1,100 training rows, two evaluation sets, a tokenizer."""
    folder = tmp_path_factory.mktemp("rows")
    (folder / "rows.jsonl").write_text("".join(map(row, range(1100))), encoding="utf-8")
    (folder / "few.jsonl").write_text("".join(map(row, range(24))), encoding="utf-8")
    for name, sign in (("plus", "+"), ("minus", "-")):
        text = "".join(row(number, sign) for number in range(2000, 2008))
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    (folder / "tokenizer").symlink_to(gpt2_like)
    return folder


@pytest.fixture
def plan(rows: Path, tmp_path: Path) -> Callable[..., Plan]:
    """`plan("trainer.workers=2")`: compiled where the rows are."""
    from llmforge import compile as compile_plan

    def make(*overrides: str) -> Plan:
        places = (f"paths.runs={tmp_path}/runs", f"paths.cache={rows}/cache")
        own = (f"tokenizer.source={rows}/tokenizer", "model.vocabulary=288")
        with chdir(rows):
            made = compile_plan([*TINY, *own, *places, *overrides])
        for part in made.data_parts():  # trained from another folder
            part["file"] = str(rows / part["file"])
        return made

    return make


def run_of(plan: Plan, parent: Path) -> RunFolder:
    run = RunFolder(parent / plan.run_id)
    run.path.mkdir(parents=True)
    plan.save(run.plan_file)
    return run


class StopAt(NullTracker):
    """Asks for a stop when a loss is recorded at this step."""

    def __init__(self, stop: StopFlag, step: int) -> None:
        self.stop, self.step = stop, step

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if "train_loss" in values and step == self.step:
            self.stop.request("test")


def train(plan: Plan, run: RunFolder, stop_after: int | None = None) -> Any:
    from llmforge.stages.train import train as train_stage

    stop = StopFlag()
    tracker = NullTracker() if stop_after is None else StopAt(stop, stop_after)
    return train_stage(plan, run, tracker, stop)


def weights(run: RunFolder) -> dict[str, bytes]:
    found = sorted(run.model.rglob("*.safetensors"))
    return {path.relative_to(run.model).as_posix(): path.read_bytes() for path in found}


def test_a_stream_teaches_what_prepared_rows_teach(plan, tmp_path: Path):
    """In the order of the rows, where both have the same order; evaluated on two sets."""
    in_order = "data.shuffle=false"
    whole, streamed = plan(in_order), plan(in_order, *STREAMED)

    results = [train(each, run_of(each, tmp_path)) for each in (whole, streamed)]

    losses = [
        [result[f"eval_{name}"] for name in ("loss", "plus_loss", "minus_loss")]
        for result in results
    ]
    assert losses[0] == losses[1]
    assert len(set(losses[1])) == 3
    assert [result["steps"] for result in results] == [10, 10]


@pytest.mark.parametrize(
    ("overrides", "stop_after"),
    [
        pytest.param((), 6, id="shuffled"),
        pytest.param(("trainer.workers=2",), 6, id="two processes", marks=pytest.mark.slow),
        # 24 rows are three steps: the stop is in the third pass
        pytest.param(("data.train=few.jsonl",), 7, id="in a later pass"),
        pytest.param(("data.max_train_rows=20",), 6, id="in the middle of a batch of two passes"),
    ],
)
def test_stopped_and_resumed_it_is_the_same_bit_for_bit(
    plan, tmp_path: Path, overrides: tuple[str, ...], stop_after: int
):
    made = plan(*STREAMED, *DROPOUT, *overrides)
    whole, stopped = run_of(made, tmp_path / "whole"), run_of(made, tmp_path / "stopped")
    train(made, whole)

    with pytest.raises(StopRequested):
        train(made, stopped, stop_after)
    assert [found.step for found in stopped.checkpoints()][:1] == [stop_after]
    train(made, stopped)

    assert weights(stopped) == weights(whole)


def test_a_bad_row_behind_those_looked_at_fails_the_run(plan, rows: Path, tmp_path: Path):
    lines = (rows / "rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    lines[1040] = '{"prompt": "no completion"}\n'
    (rows / "bad.jsonl").write_text("".join(lines), encoding="utf-8")
    bad = (*STREAMED, "data.train=bad.jsonl", "evaluation.every=null")

    refused = plan(*bad)  # the compiler does not see it
    with pytest.raises(Exception, match="cannot be used") as raised:
        train(refused, run_of(refused, tmp_path / "refused"))
    told = diagnose(raised.value, refused)
    assert told.code == "LF805"
    assert "bad.jsonl:1041" in told.message
    assert "hint: data.max_bad_rows=1%" in told.message

    allowed = plan(*bad, "data.max_bad_rows=1%")
    train(allowed, run_of(allowed, tmp_path))
    receipts = list((rows / "cache").rglob(f"*{allowed.run_id}*receipt.jsonl"))
    assert [json.loads(file.read_text(encoding="utf-8"))["line"] for file in receipts] == [1041]


def test_what_decides_the_order_of_a_stream_makes_another_run(plan):
    """Of several data-loader processes each gives a batch of all ranks in turn."""
    same = {plan(*STREAMED, f"trainer.workers={n}").fingerprint for n in (0, 1)}
    several = {plan(*STREAMED, f"trainer.workers={n}").fingerprint for n in (2, 3)}
    turns = plan(*STREAMED, "trainer.workers=2", "trainer.micro_batch=2").fingerprint
    assert len(same) == 1
    assert len(same | several | {turns}) == 4

    whole = {plan(f"trainer.workers={n}").fingerprint for n in (0, 1, 2, 3)}
    assert len(whole) == 1


RANK = """
import json, os, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.plan import Plan
from llmforge.stages.prepare import prepare
plan, out = Plan.load(sys.argv[1]), Path(sys.argv[2])
trainer = build_trainer(plan, build_parts(plan, prepare(plan)), out / "trainer", [])
step, seen, losses = trainer.training_step, [], []
def watched(model, inputs, *rest, **more):
    seen.append([row[row >= 0].tolist() for row in inputs["labels"]])
    loss = step(model, inputs, *rest, **more)
    losses.append(float(loss))
    return loss
trainer.training_step = watched
trainer.train()
total = sum(float(weight.double().sum()) for weight in trainer.model.parameters())
told = {"seen": seen, "losses": losses, "weights": total}
(out / f"seen-{os.environ.get('RANK', 'alone')}.json").write_text(json.dumps(told))
"""


@pytest.mark.slow
@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_share_each_batch_of_one(plan, tmp_path: Path, workers):
    """Every sample is one rank's, and together they train on what one rank would, in its order.

    Padding differs between the shares of a batch, so the rows are told by the tokens they learn.
    """
    few = ("trainer.global_batch=4", "trainer.max_steps=300", "checkpoint.every=null")
    own = (*STREAMED, *few, f"trainer.workers={workers}", "evaluation.every=null")
    two = ("launch=torchrun", "launch.processes=2", "trainer.micro_batch=2")
    (tmp_path / "rank.py").write_text(RANK)
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "OMP_NUM_THREADS": "1",
    }
    for overrides, launcher in (
        (("trainer.micro_batch=4",), ()),
        (two, ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")),
    ):
        file = plan(*own, *overrides).save(tmp_path / f"plan-{len(launcher)}.json")
        subprocess.run(
            [sys.executable, *launcher, str(tmp_path / "rank.py"), str(file), str(tmp_path)],
            check=True,
            cwd=tmp_path,
            env=environment,
        )

    alone, first, second = (
        json.loads((tmp_path / f"seen-{rank}.json").read_text()) for rank in ("alone", "0", "1")
    )
    together = [a + b for a, b in zip(first["seen"], second["seen"], strict=True)]
    assert together == alone["seen"]
    if not workers:
        # of the first pass, each row once
        rows = [str(row) for batch in together for row in batch]
        assert len(set(rows[:1100])) == 1100
    assert first["weights"] == second["weights"]
    assert first["weights"] == pytest.approx(alone["weights"], abs=1e-2)
