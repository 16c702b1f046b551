"""What a person sees of a chain: the stage that begins, what is found finished, the table.

In: entries of the ledger, answers. Out: text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from llmforge.render import size_text, table
from llmforge.run.chain.ledger import Entry

_WORDS = {
    "done": "done",
    "found": "found finished",
    "left out": "left out",
    "failed": "failed",
    "interrupted": "interrupted",
    "pending": "not begun",
    "running": "running",
}
_LONGEST = 88
"""Characters of an answer that are shown."""


def beginning(entry: Entry, number: int, total: int) -> Text:
    """The line above a stage's own output."""
    return Text(f"\n=== {entry.name} ({number} of {total})", style="bold")


def skipped(entry: Entry) -> str:
    """The line that stands for a stage that is not done."""
    if entry.state == "left out":
        return f"{entry.name}: left out, {entry.why}"
    return f"{entry.name}: found finished in {short(entry.place)}"


def overview(entries: Sequence[Entry]) -> str:
    """The table at the end."""
    rows = [
        (
            entry.name,
            _WORDS[entry.state],
            f"{entry.seconds:,.1f}" if entry.seconds is not None else "",
            "; ".join(filter(None, (entry.why, *_figures(entry.figures)))),
            short(entry.place),
        )
        for entry in entries
    ]
    return table(rows, ("stage", "status", "seconds", "figures", "where"))


def _figures(figures: Mapping[str, float]) -> list[str]:
    """`perplexity 3.1 -> 1.04`: what was measured before stands before it."""
    told = []
    for name, value in figures.items():
        if name.endswith(" before"):
            continue
        before = figures.get(f"{name} before")
        text = _number(name, value)
        told.append(f"{name} {f'{_number(name, before)} -> ' if before is not None else ''}{text}")
    return told


def _number(name: str, value: float) -> str:
    if name == "size":
        return size_text(int(value))
    if name in ("exact match", "top-1 agreement", "accuracy"):
        return f"{value:.1%}"
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e12 else f"{value:,.4g}"


def side_by_side(found: Mapping[str, Any]) -> str:
    """Each question with what every model says."""
    lines: list[str] = []
    width = max((len(name) for name in found["right"]), default=0)
    width = max(width, len("expected"))
    for row in found["rows"]:
        lines.append(f"\n{'prompt':<{width}}  {_line(row['prompt'])}")
        lines.append(f"{'expected':<{width}}  {_line(row['reference'])}")
        lines += [f"{name:<{width}}  {_line(text)}" for name, text in row["answers"].items()]
    asked = len(found["rows"])
    right = ", ".join(f"{name} {count} of {asked}" for name, count in found["right"].items())
    return "\n".join([*lines, "", f"right answers: {right}"])


def _line(text: str) -> str:
    one = " ".join(str(text).split())
    return one if len(one) <= _LONGEST else f"...{one[3 - _LONGEST :]}"


def short(place: str) -> str:
    """A path relative to the working folder where that is shorter."""
    try:
        return str(Path(place).relative_to(Path.cwd())) if place else ""
    except ValueError:
        return place
