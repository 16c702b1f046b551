"""`docs/memory.md`: its commands are run, and what it shows of their output is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "memory.md"
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
    assert ran == 3
