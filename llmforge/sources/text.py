"""Plain text: a line, a paragraph or a whole file is one row with the column `text`.

In: a file and the unit. Out: `TextPart`, its rows. Line breaks inside a row are line feeds; those
at its end, carriage returns included, are not part of it. Blank lines are no rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from llmforge.sources import decoding
from llmforge.sources.base import Fault, Raw, excerpt
from llmforge.sources.decoding import mend, not_utf8, numbered, too_long
from llmforge.sources.files import opened

Unit = Literal["line", "paragraph", "file"]


@dataclass(frozen=True)
class TextPart:
    """The rows of one text file. `Raw.line` is where a row begins; of a whole file it is 1."""

    name: str
    path: Path
    unit: Unit = "line"

    @property
    def file(self) -> Path:
        return self.path

    def rows(self) -> Iterator[Raw]:
        """Every unit that is not blank; see `Part.rows`."""
        begins, lines, size = 1, list[str](), 0
        fault: Fault | None = None
        for number, text, found in self._lines():
            if found is not None and (found.ends or self.unit == "line"):
                yield Raw(number, None, found)
                if found.ends:
                    return
                continue
            blank = found is None and not text.strip()
            if self.unit == "line":
                if not blank:
                    yield Raw(number, {"text": text})
                continue
            if self.unit == "paragraph" and blank:
                yield from _joined(begins, lines, fault)
                lines, size, fault = [], 0, None
                continue
            if self.unit == "paragraph" and not lines:
                begins = number
            size += len(text) + 1
            if found is not None and number > begins:  # its place is the row's, so say the line
                found = replace(found, what=f"{found.what} (line {number})", column=None)
            fault = fault or found
            if size <= decoding.LONGEST_ROW:
                lines.append(text)
            else:  # what is behind it is passed over, so that the memory stays small
                fault = fault or too_long("\n".join(lines[:10]))
        yield from _joined(begins, lines, fault)

    def _lines(self) -> Iterator[tuple[int, str, Fault | None]]:
        """Number, text without its line break, fault."""
        seen_utf8 = False
        with opened(self.path, self.name) as stream:
            for number, raw in numbered(stream):
                if len(raw) > decoding.LONGEST_ROW:
                    yield number, "", too_long(raw)
                    continue
                try:
                    text = raw.decode().rstrip("\r\n")
                except UnicodeDecodeError as error:
                    yield number, "", not_utf8(self.name, number, raw, error, seen_utf8)
                    continue
                seen_utf8 = seen_utf8 or not text.isascii()
                yield number, text, self._nul(number, raw, text) if "\0" in text else None

    def _nul(self, number: int, raw: bytes, text: str) -> Fault:
        if number == 1 and decoding.guess_wide(raw):
            what = f"is not UTF-8: byte 0x00 at position {raw.index(0)}"
            return decoding.other_encoding(self.name, what, raw)
        at = text.index("\0") + 1
        what, hint = "holds a NUL byte", mend(self.name, number, at)
        return Fault("LF504", what, at, excerpt(text[:400]), hint)


def _joined(begins: int, lines: list[str], fault: Fault | None) -> Iterator[Raw]:
    """One row of several lines, if there is anything on them."""
    if fault is not None:
        yield Raw(begins, None, fault)
    elif any(line.strip() for line in lines):
        yield Raw(begins, {"text": "\n".join(lines).rstrip("\n")})
