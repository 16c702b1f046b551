"""A bar on a terminal, a line a log interval elsewhere; the log has the lines in both cases."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from llmforge.run.terminal import Screen

pytest.importorskip("torch")

from llmforge.build.callbacks import ProgressCallback, TrackerCallback
from llmforge.build.progress import Pace


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def _xterm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")


def three_steps(progress: ProgressCallback, pace: Pace) -> None:
    state = SimpleNamespace(global_step=0, max_steps=3)
    progress.on_train_begin(None, state, None)
    for step in (1, 2, 3):
        progress.on_step_begin(None, state, None)
        state.global_step = step
        progress.on_step_end(None, state, None)
        progress.on_log(None, state, None, {"loss": 4.0 - step, "learning_rate": 1e-3})
    for _ in range(2):  # the last step's evaluation, and the final model's
        metrics = {"eval_loss": 1.5, "eval_perplexity": 4.4817}
        progress.on_evaluate(None, state, None, metrics)
    progress.on_train_end(None, state, None)
    assert pace.steps == 3


def shown(stream: io.StringIO) -> tuple[str, str]:
    log = io.StringIO()
    pace = Pace(tokens_per_step=100)
    three_steps(ProgressCallback(Screen(err=stream, log=log), pace), pace)
    return stream.getvalue(), log.getvalue()


def test_lines_where_there_is_no_terminal() -> None:
    text, log = shown(io.StringIO())
    assert text == log
    assert text.count("step 3/3  held-out loss 1.5000  perplexity 4.48") == 1
    assert "step 2/3  loss 2.0000  lr 1.00e-03" in text
    assert "tokens/s" in text
    assert "\x1b" not in text


def test_a_bar_on_a_terminal_and_the_lines_in_the_log() -> None:
    text, log = shown(Terminal())
    assert "3/3" in text
    assert "loss 1.0000" in text.splitlines()[-2]
    assert "step 2/3  loss" not in text
    assert "step 2/3  loss 2.0000" in log
    assert "held-out loss" in text
    assert "\r" not in log
    assert "\x1b[?25h" in text  # the cursor is back


def test_speed_leaves_out_evaluations(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr("llmforge.build.progress.time.perf_counter", lambda: now[0])
    pace = Pace(tokens_per_step=50)
    pace.start(10)
    for step in (11, 12):
        pace.begin()
        now[0] += 1.0
        pace.end(step)
        pace.pause()
        now[0] += 100.0  # measuring
    assert pace.tokens_per_second == 50.0
    assert pace.seconds_left(20) == 8.0


def test_names_of_the_record() -> None:
    seen: list[tuple[dict[str, Any], int]] = []
    pace = Pace(0)
    callback = TrackerCallback(lambda values, step: seen.append((dict(values), step)), pace)
    state = SimpleNamespace(global_step=7)
    callback.on_log(None, state, None, {"loss": 1.0, "learning_rate": 0.1, "grad_norm": 2.0})
    callback.on_log(None, state, None, {"eval_loss": 1.0, "eval_runtime": 9.0, "epoch": 1.0})
    callback.on_log(None, state, None, {"train_runtime": 9.0, "train_loss": 3.0})
    assert seen == [
        ({"train_loss": 1.0, "learning_rate": 0.1, "grad_norm": 2.0}, 7),
        ({"eval_loss": 1.0, "epoch": 1.0}, 7),
    ]
