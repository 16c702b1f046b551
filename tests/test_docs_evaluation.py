"""`docs/evaluation.md`: its commands are run, and what it shows of their output is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "evaluation.md"
CONSOLE = re.compile(r"^```console\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_every_command_of_the_page(work: Path, llmforge: Callable[[str], Any]) -> None:
    del work  # the folder the commands run in
    ran = 0
    for body in CONSOLE.findall(PAGE.read_text(encoding="utf-8")):
        for part in re.split(r"^\$ llmforge ", body, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            told = llmforge(command)
            ran += 1
            assert told.code == 0, f"{command}\n{told.err}"
            printed = [line.rstrip() for line in told.out.splitlines()]
            assert [line for line in shown if line.rstrip() not in printed] == [], told.out
    assert ran == 6


def test_flags_of_the_page_are_the_verb_s() -> None:
    """Commands that need a run of one's own are not run here: their flags must be known."""
    from llmforge.cli import _parser

    commands = re.findall(r"^    llmforge (evaluate .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(commands) == 5
    for command in commands:
        parsed = _parser().parse_known_args(command.split())
        assert parsed[0].ref == "last"
        assert not [word for word in parsed[1] if word.startswith("-")]
