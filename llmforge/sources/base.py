"""What every reader gives: parts of raw rows, each with its place, faulty ones with their reason.

In: nothing. Out: `Raw`, `Row`, `Fault`, `Part`, `Unusable`, and what readers share. A reader never
drops a row and never raises for one: a row that cannot be read is a `Raw` with a `Fault`. Only a
part that cannot be read as a whole raises `Unusable`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

_EXCERPT = 80


@dataclass(frozen=True)
class Fault:
    """What is wrong with one row, or with a whole part, in a user's terms."""

    code: str
    """LF501 missing or unreadable, LF502 no rows, LF503 encoding, LF504 malformed, LF505 row
    without what its shape needs, LF506 shape not recognised, LF514 database."""
    what: str
    """Goes on after the place: `is not valid JSON: Expecting ',' delimiter`."""
    column: int | None = None
    """1-based character in the line, where known."""
    sample: str = ""
    """What stands there, cut to `excerpt` length."""
    hint: str | None = None
    """An override to paste, a command to run, or what to change."""
    key: str | None = None
    """The setting to blame, relative to the source: `fields.prompt`, `delimiter`; None is the
    source's `train` or `evaluation`."""
    notes: tuple[str, ...] = ()
    ends: bool = False
    """Every row would have it too (another encoding, a wrong column name): tell it once, stop."""


class Raw(NamedTuple):
    """One row as it stands in its part; `values` or `fault` is None."""

    line: int
    """1-based: the line where the row begins in a text file, else the row's number."""
    values: Mapping[str, Any] | None
    """Columns by name, as the source gives them: JSON values."""
    fault: Fault | None = None


class Row(NamedTuple):
    """One row of a shape, as the builders of samples read it."""

    source: str
    """Name of its part: the file as the settings write it, `table questions`, `builtin`."""
    line: int
    """As `Raw.line`."""
    values: Mapping[str, Any]
    """By shape: `text`; `prompt` and `completion`; `text_parts`, a list of texts; `instruction`,
    `input` (may be empty) and `output`; or `messages`, a list of {role, content} (an
    assistant's may also have `tool_calls` and null content; `train` is the flag of a flagged
    message), with `tools`, a list, where the row has any. Names are these, whatever the columns are
    called."""

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"


class Part(Protocol):
    """One file, one query or one split: rows in an order that is the same every time."""

    @property
    def name(self) -> str:
        """As people know it: the path as written in the settings, or `table questions`."""

    @property
    def file(self) -> Path | None:
        """The local file that the rows are read from: its bytes are the part's identity. Sources
        that are no local file take a snapshot of their rows first, and this is the snapshot."""

    def rows(self) -> Iterator[Raw]:
        """Every row, faulty ones included, blank lines left out.

        Raises:
            Unusable: the part as a whole cannot be read.
        """


class Unusable(Exception):
    """A part that cannot be read at all: missing, a folder, not a Parquet file, no such table."""

    def __init__(self, name: str, fault: Fault) -> None:
        super().__init__(f"{name} {fault.what}")
        self.name = name
        self.fault = fault


def excerpt(raw: bytes | str) -> str:
    """What stands there, for a message: one line, at most 80 characters."""
    raw = raw[: 4 * _EXCERPT]
    text = raw.decode("utf-8", "replace") if isinstance(raw, bytes) else raw
    text = " ".join(text.split())
    # what a hostile file holds must not reach the terminal as its codes
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= _EXCERPT else text[: _EXCERPT - 3] + "..."
