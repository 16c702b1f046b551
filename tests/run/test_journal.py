"""The journal: appended to, read while it grows, mended after a kill."""

from __future__ import annotations

import json
import math
import statistics
import time
from pathlib import Path

import pytest

from llmforge.run import journal
from llmforge.run.journal import Journal


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


def test_what_is_appended_is_read_back(file: Path) -> None:
    log = Journal(file)
    log.append({"loss": 2.5, "step_name": "x", "flag": True}, 3)  # type: ignore[dict-item]
    rows = [row for row, _ in journal.read(file)]
    assert [(row.step, dict(row.values)) for row in rows] == [(3, {"loss": 2.5})]


def test_reading_goes_on_where_it_stopped(file: Path) -> None:
    log = Journal(file)
    log.append({"a": 1}, 1)
    ((_, offset),) = journal.read(file)
    log.append({"a": 2}, 2)
    assert [row.step for row, _ in journal.read(file, offset)] == [2]


def test_numbers_without_json_survive(file: Path) -> None:
    Journal(file).append({"nan": math.nan, "inf": math.inf}, 1)
    json.loads(file.read_text(), parse_constant=pytest.fail)  # strict JSON
    ((row, _),) = journal.read(file)
    assert math.isnan(row.values["nan"])
    assert row.values["inf"] == math.inf


def test_a_half_written_line_is_left_alone_until_it_is_whole(file: Path) -> None:
    Journal(file).append({"a": 1}, 1)
    whole = file.read_bytes()
    file.write_bytes(whole + whole[:10])
    assert len(list(journal.read(file))) == 1


def test_after_a_kill_inside_a_write_the_next_line_is_whole(file: Path) -> None:
    Journal(file).append({"a": 1}, 1)
    with file.open("ab") as stream:
        stream.write(b'{"t":1,"step":2,"val')
    Journal(file).append({"a": 3}, 3)
    assert [row.step for row, _ in journal.read(file)] == [1, 3]


def test_steps_run_twice_count_as_run_the_last_time(file: Path) -> None:
    log = Journal(file)
    log.attempt(1, 0)
    log.append({"baseline_eval_loss": 9.0}, 0)
    for step in (1, 2, 3):
        log.append({"train_loss": step}, step)
    log.append({"eval_loss": 7.0}, 3)
    log.attempt(2, 2)  # steps from 3 on were lost
    log.append({"train_loss": 30.0}, 3)
    assert journal.history(file) == {
        "baseline_eval_loss": {0: 9.0},
        "train_loss": {1: 1.0, 2: 2.0, 3: 30.0},
    }


def test_seconds_leave_out_the_time_between_attempts(file: Path) -> None:
    lines = [
        {"t": 1_000, "mark": "attempt", "attempt": 1, "from_step": 0},
        {"t": 3_000, "step": 1, "values": {"a": 1}},
        {"t": 900_000, "mark": "attempt", "attempt": 2, "from_step": 1},
        {"t": 905_000, "step": 2, "values": {"a": 1}},
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    assert journal.seconds(file) == 7.0


def test_a_missing_journal_is_an_empty_one(file: Path) -> None:
    assert journal.history(file) == {}
    assert journal.seconds(file) == 0.0


def test_the_step_path_is_cheap(file: Path) -> None:
    log = Journal(file)
    times = []
    for step in range(2000):
        began = time.perf_counter()
        log.append({"train_loss": 1.5, "learning_rate": 1e-3, "grad_norm": 0.5}, step)
        times.append(time.perf_counter() - began)
    # measured: 12 us on an idle machine; the bound leaves room for a busy one
    assert statistics.median(times) < 500e-6
