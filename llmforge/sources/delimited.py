"""Delimited text: CSV, TSV and their like. Every value stays the text that it is.

In: a file and how it is delimited. Out: `DelimitedPart`, its rows. A record whose number of values
is not that of the columns is a fault, never padded or cut; `001`, `NA` and `2024-01-01` are not
guessed to be anything.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from shlex import quote as shell_quote
from typing import Any

from llmforge.sources import decoding
from llmforge.sources.base import Fault, Raw, Unusable, excerpt
from llmforge.sources.decoding import mend, not_utf8, numbered, too_long
from llmforge.sources.files import opened, override

_LIKELY = ("\t", ";", "|", ",")
"""Delimiters that a wrong setting may stand for."""


class _Ends(Exception):
    """The part ends in this record: the whole file is in another encoding."""

    def __init__(self, fault: Fault) -> None:
        super().__init__(fault.what)
        self.fault = fault


class _Lines:
    """Lines for `csv.reader`, which asks for as many as a record has."""

    def __init__(self, stream: io.BufferedReader[Any], name: str) -> None:
        self.name = name
        self.line = 0
        """Of the last line given."""
        self.begins = 0
        self.first = ""
        self.fault: Fault | None = None
        """Of the record that is being read; the csv module would not notice."""
        self._numbered = numbered(stream)
        self._seen_utf8 = False

    def begin(self) -> None:
        """The next line begins a record."""
        self.begins, self.fault = 0, None

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        self.line, raw = next(self._numbered)
        try:
            text = raw.decode()
        except UnicodeDecodeError as error:
            fault = not_utf8(self.name, self.line, raw, error, self._seen_utf8)
            if fault.ends:
                self.begins = self.begins or self.line
                raise _Ends(fault) from error
            self.fault, text = fault, raw.decode("utf-8", "replace")
        if not self.begins:
            self.begins, self.first = self.line, text
        if "\0" in text:
            if self.line == 1 and decoding.guess_wide(raw):
                what = f"is not UTF-8: byte 0x00 at position {raw.index(0)}"
                raise _Ends(decoding.other_encoding(self.name, what, raw))
            what, hint = "holds a NUL byte", mend(self.name, self.line)
            self.fault = Fault("LF504", what, text.index("\0") + 1, excerpt(text[:400]), hint)
        if len(raw) > decoding.LONGEST_ROW:
            self.fault, text = too_long(raw), "\n"
        self._seen_utf8 = self._seen_utf8 or not text.isascii()
        return text


@dataclass(frozen=True)
class DelimitedPart:
    """The records of one delimited file. `Raw.line` is where a record begins."""

    name: str
    path: Path
    delimiter: str = ","
    quote: str | None = '"'
    header: bool = True
    """The first record names the columns; without it they are `1`, `2`, ..."""

    @property
    def file(self) -> Path:
        return self.path

    def rows(self) -> Iterator[Raw]:
        """Every record that is not blank; see `Part.rows`."""
        if self.delimiter in ("\r", "\n", self.quote):
            what = (
                f"cannot be read with {self.delimiter!r} between values and {self.quote!r} around"
            )
            hint = override("data.delimiter", ",")
            raise Unusable(self.name, Fault("LF504", what, key="delimiter", hint=hint))
        # the module's own limit of 128 KiB a value is shared by the process, and too low for chats
        csv.field_size_limit(max(csv.field_size_limit(), decoding.LONGEST_ROW))
        names: list[str] | None = None
        with opened(self.path, self.name) as stream:
            for lines, record, fault in self._records(stream):
                if fault is not None:
                    # without its names no row can be read, so a fault of the header ends the part
                    ends = fault.ends or (names is None and self.header)
                    yield Raw(lines.begins, None, replace(fault, ends=ends))
                    if ends:
                        return
                    continue
                if names is None:
                    names = self._names(record, lines)
                    if self.header:
                        continue
                if len(record) != len(names):
                    yield Raw(lines.begins, None, self._ragged(record, names, lines))
                else:
                    yield Raw(lines.begins, dict(zip(names, record, strict=True)))

    def _records(
        self, stream: io.BufferedReader[Any]
    ) -> Iterator[tuple[_Lines, list[str], Fault | None]]:
        """Every record with the lines it was read from and its fault; blank lines left out."""
        lines = _Lines(stream, self.name)
        if self.quote is None:
            reader = csv.reader(
                lines, delimiter=self.delimiter, quoting=csv.QUOTE_NONE, quotechar=None, strict=True
            )
        else:
            reader = csv.reader(lines, delimiter=self.delimiter, quotechar=self.quote, strict=True)
        while True:
            lines.begin()
            fault: Fault | None = None
            record: list[str] = []
            try:
                record = next(reader)
            except StopIteration:
                return
            except _Ends as end:
                fault = end.fault
            except csv.Error as error:
                fault = self._malformed(error, lines)
            fault = lines.fault or fault
            if fault is not None or (record and not self._blank(record)):
                yield lines, record, fault
            if fault is not None and fault.ends:
                return

    def _blank(self, record: list[str]) -> bool:
        """A line of white space is no row; quotes or delimiters on it make it one."""
        return len(record) == 1 and record[0].isspace() and self.delimiter not in record[0]

    def _names(self, record: list[str], lines: _Lines) -> list[str]:
        if not self.header:
            return [str(number) for number in range(1, len(record) + 1)]
        place, sample = f"{self.name}:{lines.begins}", excerpt(lines.first[:400])
        if len(record) == 1:
            other = next((mark for mark in _LIKELY if mark in record[0]), None)
            if other is not None and other != self.delimiter:
                raise Unusable(place, self._other_delimiter(other, sample))
        if "" in (name.strip() for name in record):
            number = [name.strip() for name in record].index("") + 1
            what = f"leaves the name of column {number} empty"
            note = "pandas writes its index so; leave it out: to_csv(path, index=False)"
            notes = (note,) if number == 1 else ()
            hint = "name every column in the first line"
            raise Unusable(place, Fault("LF504", what, sample=sample, hint=hint, notes=notes))
        twice = next((name for name in record if record.count(name) > 1), None)
        if twice is not None:
            what = f"names two columns `{excerpt(twice)}`"
            hint = f"rename one in the first line: sed -n 1p {shell_quote(self.name)}"
            raise Unusable(place, Fault("LF504", what, sample=sample, hint=hint))
        return record

    def _other_delimiter(self, other: str, sample: str) -> Fault:
        named = "tabs" if other == "\t" else f"`{other}`"
        hint = "data=tsv" if other == "\t" else override("data.delimiter", other)
        what = f"names a single column, `{sample}`"
        note = f"its values seem to be separated by {named}"
        return Fault("LF504", what, sample=sample, hint=hint, key="delimiter", notes=(note,))

    def _ragged(self, record: list[str], names: list[str], lines: _Lines) -> Fault:
        many = "1 value" if len(record) == 1 else f"{len(record)} values"
        what = f"has {many} for {len(names)} columns"
        notes = [f"columns: {', '.join(f'`{excerpt(name)}`' for name in names[:12])}"]
        if len(record) > len(names):
            around = self.quote or "another delimiter"
            notes.append(f"a value that holds `{self.delimiter}` stands in {around}")
        if lines.line > lines.begins:
            notes.append(f"it goes on to line {lines.line}")
        sample, hint = excerpt(lines.first[:400]), mend(self.name, lines.begins)
        return Fault("LF504", what, sample=sample, hint=hint, notes=tuple(notes))

    def _malformed(self, error: csv.Error, lines: _Lines) -> Fault:
        reason = str(error)
        sample, hint = excerpt(lines.first[:400]), mend(self.name, lines.begins)
        spanned = lines.line - lines.begins
        if reason == "unexpected end of data":
            what = f"opens a quote {self.quote} that is never closed"
            lines_after = "the line" if spanned == 1 else f"all {spanned} lines"
            note = f"inside the quotes: {lines_after} after it"
            notes = (note,) if spanned else ("the file may have been cut short",)
            # rows were swallowed, and nobody knows how many: no allowance of bad rows covers that
            return Fault("LF504", what, None, sample, hint, notes=notes, ends=spanned > 0)
        if "field larger" in reason:
            what = f"opens a quote {self.quote} that is not closed for very long"
            return Fault("LF504", what, None, sample, hint, ends=True)
        if "new-line character" in reason:
            what = "holds a carriage return without a line feed"
            path = shell_quote(self.name)
            hint = f"tr '\\r' '\\n' < {path} > {shell_quote(self.name + '.lines')}"
            return Fault("LF504", what, None, sample, hint)
        what = f"has a quote {self.quote} inside a value that is not doubled"
        notes = (f"quotes inside a quoted value are doubled: {self.quote}{self.quote}",)
        return Fault("LF504", what, None, sample, hint, notes=notes)
