"""`metrics.csv`: one row a step, whatever happened to the run in between."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from llmforge.run.journal import Journal
from llmforge.run.table import rows, write_table


def table(journal: Path, target: Path) -> list[dict[str, str]]:
    assert write_table(journal, target) == target
    with target.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_row_for_each_step_and_a_column_for_each_metric(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.attempt(1, 0)
    journal.append({"baseline_eval_loss": 5.5}, 0)
    journal.append({"train_loss": 4.25, "epoch": 0.5}, 10)
    journal.append({"eval_loss": 4.0, "epoch": 0.5}, 10)
    journal.append({"train_loss": 1 / 3, "epoch": 1.0}, 20)

    found = table(tmp_path / "metrics.jsonl", tmp_path / "metrics.csv")

    head = (tmp_path / "metrics.csv").read_text(encoding="utf-8").splitlines()[0]
    assert head == "step,epoch,seconds,baseline_eval_loss,train_loss,eval_loss"
    assert [row["step"] for row in found] == ["0", "10", "20"]
    assert (found[1]["train_loss"], found[1]["eval_loss"], found[1]["epoch"]) == (
        *("4.25", "4.0", "0.5"),
    )
    assert float(found[2]["train_loss"]) == 1 / 3
    assert found[2]["eval_loss"] == ""


def test_a_run_that_goes_on_has_no_step_twice(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "metrics.jsonl")
    journal.attempt(1, 0)
    for step in (10, 20, 30):
        journal.append({"train_loss": float(step)}, step)
    journal.attempt(2, 15)
    journal.append({"train_loss": 21.0}, 20)

    found = table(tmp_path / "metrics.jsonl", tmp_path / "metrics.csv")

    assert [(row["step"], row["train_loss"]) for row in found] == [("10", "10.0"), ("20", "21.0")]


def test_seconds_leave_out_the_time_between_attempts(tmp_path: Path) -> None:
    lines = [
        {"t": 1_000, "mark": "attempt", "attempt": 1, "from_step": 0},
        {"t": 3_500, "step": 10, "values": {"train_loss": 1.0}},
        {"t": 900_000, "mark": "attempt", "attempt": 2, "from_step": 10},
        {"t": 901_000, "step": 20, "values": {"train_loss": 0.5}},
    ]
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    assert [row.seconds for row in rows(file)] == [2.5, 3.5]


def test_without_numbers_there_is_no_table(tmp_path: Path) -> None:
    assert write_table(tmp_path / "metrics.jsonl", tmp_path / "metrics.csv") is None
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_that_are_none_stand_there_as_such(tmp_path: Path, value: float) -> None:
    Journal(tmp_path / "metrics.jsonl").append({"train_loss": value}, 1)

    (row,) = table(tmp_path / "metrics.jsonl", tmp_path / "metrics.csv")

    assert repr(float(row["train_loss"])) == repr(value)
