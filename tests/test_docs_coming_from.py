"""`docs/coming-from.md`: every row of the three older systems once, with keys that exist.

Overrides on the page are checked as `llmforge check` would: accepted, or refused with the code that
stands behind them. What is marked `(not yet)` must not exist yet.
"""

from __future__ import annotations

import json
import re
import shlex
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import pytest

from llmforge import cli, registry
from llmforge.compiler.passes import check
from llmforge.schema import SCALARS, SECTIONS, SINGLE

PAGE = Path(__file__).parents[1] / "docs" / "coming-from.md"
SECTION_SIZES = {"XC": 91, "SC": 31, "VC": 21}
"""Rows of settings of X-LLM, superduper and Void-Trainer in the inventory of what they could do."""

FAULTS = [
    *(f"XD{n:02}" for n in range(1, 27)),
    *(f"SD{n:02}" for n in range(1, 14)),
    *(f"VD{n:02}" for n in range(1, 17)),
]
"""Their faults that must not come back, by number."""

ROW = re.compile(r"^\| ((?:XC|SC|VC)\d\d) \| (.+?) \| (.+?) \|(.*)\|$", re.MULTILINE)
SPAN = re.compile(r"`([^`]+)`(?: \((LF\d{3}|not yet)\))?")


@dataclass(frozen=True)
class Said:
    """One piece of code on the page."""

    row: str
    text: str
    mark: str
    """A code it is refused with, `not yet`, or nothing."""
    main: bool
    """In the column that says what to write."""

    @property
    def is_command(self) -> bool:
        return self.text.startswith("llmforge ")

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)

    @property
    def is_override(self) -> bool:
        return "=" in self.text and "(" not in self.text and not self.is_command

    @property
    def is_key(self) -> bool:
        head, dot, _ = self.text.partition(".")
        named = head in (*SECTIONS, *SCALARS, *PLANNED) and " " not in self.text
        return named and not self.is_override and (bool(dot) or self.main)


PLANNED = ("fuse", "quantize")
"""Groups and verbs of stages that come later."""


def rows() -> list[tuple[str, str, str]]:
    text = PAGE.read_text(encoding="utf-8")
    return [(m[1], m[3], m[4]) for m in ROW.finditer(text)]


def said() -> list[Said]:
    return [
        Said(row, span[1], span[2] or "", main)
        for row, here, different in rows()
        for cell, main in ((here, True), (different, False))
        for span in SPAN.finditer(cell)
    ]


def fields_of(section: str) -> set[str]:
    if section in SINGLE:
        return set(SINGLE[section].model_fields)
    return {f for c in registry.kinds(section).values() for f in c.spec.model_fields}


def exists(key: str) -> bool:
    section, *path = key.split(".")
    if section in SCALARS:
        return not path
    return section in SECTIONS and (not path or path[0] in fields_of(section))


def is_verb(name: str, capsys: pytest.CaptureFixture[str]) -> bool:
    with pytest.raises(SystemExit) as left:
        cli.main([name, "--help"])
    capsys.readouterr()
    return left.value.code == 0


def test_every_row_of_the_inventory_is_there_once() -> None:
    expected = [f"{s}{n:02}" for s, size in SECTION_SIZES.items() for n in range(1, size + 1)]
    found = [row for row, _, _ in rows()]

    assert found == expected
    assert len(found) == 143
    print(f"{len(found)} of {len(expected)} rows mapped")


def test_every_row_says_what_to_write() -> None:
    silent = {row for row, here, _ in rows() if here != "none needed"}
    silent -= {s.row for s in said() if s.main}

    assert not silent
    unclear = [s for s in said() if s.main and not (s.is_command or s.is_override or s.is_key)]
    assert not unclear


def test_every_fault_that_must_not_return_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")

    assert [fault for fault in FAULTS if f"{fault})" not in text] == []


@pytest.mark.parametrize("one", [s for s in said() if s.is_key], ids=lambda s: f"{s.row} {s.text}")
def test_every_key_is_in_the_schema(one: Said) -> None:
    assert exists(one.text) == (one.mark != "not yet")


def test_every_verb_is_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    named = {(s.words[1], s.mark == "not yet") for s in said() if s.is_command}

    assert len(named) > 4
    assert [verb for verb, later in named if is_verb(verb, capsys) == later] == []


@pytest.fixture
def material(work: Path, checkpoint: Callable[..., Path]) -> Path:
    """What the overrides of the page name."""
    checkpoint(work / "my-model")
    rows = [{"prompt": f"What is {n} + {n}?", "completion": str(2 * n)} for n in range(400)]
    for name in ("train", "eval"):
        (work / f"{name}.jsonl").write_text(
            "".join(json.dumps(r | {"prompt": f"{name}: {r['prompt']}"}) + "\n" for r in rows),
            encoding="utf-8",
        )
    (work / "qa.jsonl").write_text(
        "".join(
            json.dumps({"question": r["prompt"], "answer": r["completion"]}) + "\n" for r in rows
        ),
        encoding="utf-8",
    )
    (work / "train.csv").write_text(
        "prompt,completion\n" + "".join(f"{r['prompt']},{r['completion']}\n" for r in rows),
        encoding="utf-8",
    )
    preset = {"optimizer_name": "AdamW", "learning_rate": 9e-5, "weight_decay": 0.12,
              "gradient_clip": 1.0}  # fmt: skip
    (work / "preset.json").write_text(json.dumps(preset), encoding="utf-8")
    with closing(sqlite3.connect(work / "chats.db")) as database:
        database.execute("create table qa (id integer, prompt text, completion text)")
        database.executemany(
            "insert into qa values (?, ?, ?)",
            [(n, r["prompt"], r["completion"]) for n, r in enumerate(rows)],
        )
        database.commit()
    return work


def unique(refused: bool) -> list[Said]:
    found = [s for s in said() if s.is_override and bool(s.mark) == refused]
    return [s for s in {s.text: s for s in found}.values() if s.mark != "not yet"]


def errors(one: Said) -> list[tuple[str, str]]:
    machine = [] if any(w.startswith("hardware=") for w in one.words) else ["hardware=cpu"]
    return [(d.code, d.message) for d in check([*machine, *one.words]).diagnostics if d.is_error]


@pytest.mark.usefixtures("material", "everything_installed")
def test_every_override_of_the_page_is_accepted() -> None:
    wrong = {f"{s.row} {s.text}": found for s in unique(refused=False) if (found := errors(s))}

    assert wrong == {}


@pytest.mark.usefixtures("material", "everything_installed")
def test_every_refusal_of_the_page_is_the_one_it_names() -> None:
    found = {f"{s.row} {s.text}": (s.mark, [c for c, _ in errors(s)]) for s in unique(refused=True)}

    assert {key: codes for key, (mark, codes) in found.items() if mark not in codes} == {}
    assert len(found) > 15


def test_what_comes_later_is_not_here_yet() -> None:
    later = [s for s in said() if s.mark == "not yet" and s.is_override]

    assert all(check(s.words).refused for s in later)
