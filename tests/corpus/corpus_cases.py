"""What a hostile file has to come to, and a folder that is filled with such files.

In: nothing. Out: `Case` and `Corpus`. The files stand in `corpus_text.py` and `corpus_binary.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal


@dataclass(frozen=True)
class Case:
    """One file, how to read it, and what has to be told."""

    file: str
    """Relative to the folder; may name what is not there."""
    overrides: tuple[str, ...]
    code: str | None
    """Of its first fault; None when every row has to be read."""
    place: str | None
    """`file:line` of its first fault; None when the file as a whole is refused."""
    good: int
    """Rows that are read."""
    bad: int
    """Rows that are refused."""
    words: str
    checked_by: Literal["reader", "flow", "command"] = "reader"
    """Who finds the fault: a reader, the checks of a row's meaning, or the command only."""


@dataclass
class Corpus:
    """A folder that is being filled."""

    folder: Path
    cases: list[Case] = field(default_factory=list)

    def add(
        self,
        file: str,
        content: bytes | str | None,
        words: str,
        *,
        code: str | None = "LF504",
        line: int | None = None,
        rows: tuple[int, int] = (2, 1),
        data: str | None = None,
        options: tuple[str, ...] = (),
        by: Literal["reader", "flow", "command"] = "reader",
    ) -> None:
        """Write a file and note its case; without content the file stays missing."""
        if content is not None:
            path = self.folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        kind = data or file.split(".")[1]
        place = None if line is None else f"{file}:{line}"
        overrides = (f"data={kind}", f"data.train={file}", *options)
        self.cases.append(Case(file, overrides, code, place, *rows, words, by))
