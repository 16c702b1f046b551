"""JSON files: one list of objects, or an object that has one such list. Read piece by piece.

In: a file. Out: `JsonPart`, its rows. Only a row and a buffer are held at a time, so a file may be
larger than the memory. What makes a row doubtful is told in `jsonl.py`; a doubtful row is passed
over, while a mistake in the grammar ends the part, because nothing behind it can be told apart.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any

from llmforge.sources import decoding
from llmforge.sources.base import Fault, Raw, Unusable, excerpt
from llmforge.sources.decoding import other_encoding
from llmforge.sources.files import opened, override, unusable
from llmforge.sources.json_text import CHUNK, Ends, Text


@dataclass(frozen=True)
class JsonPart:
    """The rows of one JSON file. `Raw.line` is where a row's object begins."""

    name: str
    path: Path

    @property
    def file(self) -> Path:
        return self.path

    def rows(self) -> Iterator[Raw]:
        """Every member of the list; see `Part.rows`."""
        with opened(self.path, self.name) as stream:
            wide = decoding.guess_wide(stream.peek(CHUNK)[:CHUNK])
            if wide is not None:
                raw = stream.read(CHUNK)
                what = f"is not UTF-8: it begins with bytes 0x{raw[:2].hex()}"
                yield Raw(1, None, other_encoding(self.name, what, raw))
                return
            text = Text(stream, self.name)
            try:
                yield from self._top(text)
            except Ends as end:
                yield Raw(end.line, None, end.fault)

    def _top(self, text: Text) -> Iterator[Raw]:
        first = text.peek()
        if first == "" and not text.broken:
            return
        if first == "[":
            text.take("[", "a list")
            yield from self._members(text)
        elif first == "{":
            yield from self._object(text)
        else:
            raise text.stop("Expecting a list of objects")
        if text.peek() or text.broken:
            raise text.stop("Extra data behind the end")

    def _members(self, text: Text) -> Iterator[Raw]:
        """Of the list whose bracket was just read."""
        if text.peek() == "]":
            text.take("]", "end of the list")
            return
        while True:
            text.peek()
            line, column = text.line, text.column
            value, fault = text.value()
            if fault is not None:
                yield Raw(line, None, fault)
            elif isinstance(value, dict):
                yield Raw(line, value)
            else:
                sample = excerpt(json.dumps(value, ensure_ascii=False)[:400])
                what, hint = "is not a JSON object", "every member of the list is one {...} object"
                yield Raw(line, None, Fault("LF504", what, column, sample, hint))
            if text.take(",]", "Expecting ',' delimiter") == "]":
                return

    def _object(self, text: Text) -> Iterator[Raw]:
        """The members of the one list of objects that an object has."""
        text.take("{", "an object")
        rows: str | None = None
        seen: dict[str, str] = {}
        more = text.peek() != "}"
        if not more:
            text.take("}", "end of the object")
        while more:
            if text.peek() != '"':
                raise text.stop("Expecting property name enclosed in double quotes")
            key = str(text.value()[0])
            text.take(":", "Expecting ':' delimiter")
            if text.peek() != "[":
                seen[key] = _named(text.value()[0])
            else:
                text.take("[", "a list")
                if text.peek() == "{" and rows is not None:
                    raise _second(text, rows, key)
                if text.peek() in ("{", "]"):
                    rows = key if text.peek() == "{" else rows
                    seen[key] = "a list"
                    yield from self._members(text)
                else:
                    seen[key] = "a list of other values"
                    _pass_over(text)
            more = text.take(",}", "Expecting ',' delimiter") == ","
        if "a list" not in seen.values():
            raise self._no_list(seen, text.peek())

    def _no_list(self, seen: dict[str, str], after: str) -> Unusable:
        notes = tuple(f"`{excerpt(key)}` is {kind}" for key, kind in list(seen.items())[:5])
        hint = "put the rows into one list: [{...}, {...}]"
        if after == "{":
            hint = f"data=jsonl {override('data.train', self.name)}"
        elif seen and set(seen.values()) == {"a mapping from row numbers"}:
            hint = 'write rows, not columns; in pandas: to_json(path, orient="records")'
        return unusable(self.name, "holds no list of objects", code="LF504", hint=hint, notes=notes)


def _second(text: Text, first: str, second: str) -> Ends:
    what = f"holds a second list of objects, `{excerpt(second)}`, beside `{excerpt(first)}`"
    hint = f"keep one: jq '.[{json.dumps(first)}]' {quote(text.name)} > rows.json"
    return Ends(text.line, Fault("LF504", what, text.column, sample=second, hint=hint, ends=True))


def _pass_over(text: Text) -> None:
    """The rest of a list that holds no rows."""
    while True:
        text.value()
        if text.take(",]", "Expecting ',' delimiter") == "]":
            return


def _named(value: Any) -> str:
    if isinstance(value, dict):
        columns = value and all(str(key).isdecimal() for key in value)
        return "a mapping from row numbers" if columns else "a mapping"
    return "text" if isinstance(value, str) else "a single value"
