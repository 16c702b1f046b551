"""Training on a stream: what is learnt is what a prepared set would teach, stopped or not.

Plans are compiled; `train` runs in this process. Rows are enough to be read beyond the first 1,000,
at which the compiler looks.
"""

from __future__ import annotations

import json
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
        pytest.param(("trainer.workers=2",), 6, id="two processes"),
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
