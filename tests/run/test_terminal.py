"""What a person sees: complete without colour, and never the end of a run."""

from __future__ import annotations

import io
import os
from collections.abc import Callable

import pytest

from llmforge.plan import Plan
from llmforge.run import terminal
from llmforge.run.folder import RunFolder

RESULT = {
    "first_train_loss": 7.0,
    "train_loss": 1.25,
    "eval_loss": 1.5,
    "eval_perplexity": 4.48,
    "exact_match": 0.75,
    "baseline": {"eval_loss": 6.9, "eval_perplexity": 1000.0, "exact_match": 0.0},
    "samples": [{"prompt": "2 + 2?", "answer": "4\n", "reference": "4"}],
}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_header_is_known_before_anything_is_loaded(plan: Plan) -> None:
    text = terminal.header(plan, 2).plain
    assert plan.run_id in text
    assert "12 steps of 8 samples" in text
    assert "40 training rows · 8 held-out rows" in text
    assert "attempt 2" in text


def test_the_closing_says_what_where_and_what_next(tiny: Callable[..., Plan]) -> None:
    plan = tiny()
    text = terminal.closing(plan, RunFolder(plan.run_folder), RESULT).plain
    assert "training loss       7.000 -> 1.250" in text
    assert "held-out perplexity 1,000.00 -> 4.48" in text
    assert "exact match         0.0% -> 75.0%" in text
    assert "prompt     2 + 2?\nanswer     4\nreference  4" in text
    assert f"everything is in  runs/{plan.run_id}" in text
    assert "llmforge ui\n" in text
    assert f'llmforge generate --run {plan.run_id} "..."' in text


def test_what_was_not_measured_is_not_told(plan: Plan) -> None:
    text = terminal.closing(plan, RunFolder(plan.run_folder), {"train_loss": 1.0}).plain
    assert "perplexity" not in text
    assert "llmforge ui" not in text  # tracking=none


def test_warnings_are_told_at_the_end(plan: Plan) -> None:
    warning = {"code": "LF901", "message": "not uploaded"}
    text = terminal.closing(plan, RunFolder(plan.run_folder), {}, [warning]).plain
    assert "warning[LF901]: not uploaded" in text


def test_colour_is_for_terminals_that_want_it(plan: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)

    def written(stream: io.StringIO) -> str:
        terminal.Screen(err=stream).say(terminal.header(plan, 1))
        return stream.getvalue()

    assert "\x1b[1m" in written(Terminal())
    assert "\x1b[" not in written(io.StringIO())
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in written(Terminal())  # no colours; bold is none


def test_brackets_of_an_answer_are_no_markup() -> None:
    stream = io.StringIO()
    terminal.Screen(out=stream).tell("[bold] the answer is [4]")
    assert stream.getvalue() == "[bold] the answer is [4]\n"


def test_a_terminal_that_goes_away_does_not_end_the_run(
    capsys: pytest.CaptureFixture[str],
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    screen = terminal.Screen(err=os.fdopen(writer, "w", buffering=1))
    for _ in range(3):
        screen.say("still here?")
    assert capsys.readouterr().err.count("the terminal is gone") == 1


def test_what_libraries_print_stays_off_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    """`llmforge generate --json | jq`: GPT-QModel greets whoever imports it."""
    with terminal.libraries_aside():
        print("a banner")
        os.write(1, b"one in C\n")
    print("the answer")
    told = capfd.readouterr()
    assert told.out == "the answer\n"
    assert sorted(told.err.splitlines()) == ["a banner", "one in C"]
