"""The manual of the data stage: its files are written, its commands run, what they print is there.

`docs/data.md` is read from top to bottom in an empty folder:

    ```json rows.jsonl      writes the file (an SQLite database, if the block is SQL)
    ```console              runs each `$ llmforge ...`; the lines below it must be printed, in order
"""

from __future__ import annotations

import re
import shlex
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from llmforge import plugins
from llmforge.sources import chat_templates, functions

PAGE = Path(__file__).parents[1] / "docs" / "data.md"

BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def write(language: str, name: str, body: str) -> None:
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    if language == "sql":
        with closing(sqlite3.connect(path)) as database:
            database.executescript(body)
            database.commit()
    else:
        path.write_text(body, encoding="utf-8")


def commands(console: str) -> Iterator[tuple[str, list[str]]]:
    """Each command with the lines that stand below it."""
    joined = console.replace("\\\n", "")
    for part in re.split(r"^\$ llmforge ", joined, flags=re.MULTILINE)[1:]:
        command, *shown = part.splitlines()
        yield command, [line for line in shown if line.strip()]


def missing(shown: list[str], printed: str) -> list[str]:
    """Lines that are not printed, or not in this order.

    Columns are as wide as their longest entry, whatever setting that is: blanks count as one.
    """
    lines = iter([" ".join(line.split()) for line in printed.splitlines()])
    return [line for line in shown if " ".join(line.split()) not in lines]


def apart(command: str) -> tuple[int, str]:
    """Exit code and output of a command in a process of its own."""
    told = subprocess.run(
        [sys.executable, "-m", "llmforge", *shlex.split(command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=120,
    )
    return told.returncode, told.stdout


@pytest.fixture
def plugins_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the page's modules register ends with the test."""
    for known in (plugins, "_loaded"), (functions, "_transforms"), (functions, "_datasets"):
        monkeypatch.setattr(*known, dict(getattr(*known)))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture(autouse=True)
def no_plugins_of_other_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmforge.plugins._loaded", {})


@pytest.mark.usefixtures("plugins_of_its_own", "work", "everything_installed")
def test_every_command_of_the_page(
    llmforge: Callable[[str], Any], checkpoint: Callable[..., Path]
) -> None:
    def here(command: str) -> tuple[int, str]:
        told = llmforge(command)
        return told.code, told.out + told.err

    checkpoint(Path("tiny"))
    ran = 0
    for language, name, body in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if name:
            write(language, name, body)
        for command, shown in commands(body) if language == "console" else ():
            # a worker prints for itself, past what the fixture catches
            code, printed = apart(command) if command.startswith("prepare") else here(command)
            ran += 1
            assert code == 0, f"{command}\n{printed}"
            for line in missing(shown, printed):
                pytest.fail(f"{command}\ndoes not print\n{line}\nbut\n{printed}")
    assert ran > 20


def test_every_template_and_setting_is_named() -> None:
    """What the page lists is what there is."""
    from llmforge.schema.data import SOURCES, Rows, Source

    text = PAGE.read_text(encoding="utf-8")
    for name in (*chat_templates.names(), *SOURCES):
        assert f"`{name}`" in text, name
    settings = {*Rows.model_fields, *Source.model_fields} - {"kind"}
    assert [name for name in sorted(settings) if f"data.{name}" not in text] == []
