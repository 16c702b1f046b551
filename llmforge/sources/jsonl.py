"""JSON Lines: one object a line. Strict, so that what is trained on is what stands there.

In: a file. Out: `JsonlPart`, its rows; `STRICT`, `check` and `doubt`, the reading of one JSON value
that `json_list.py` shares. Beyond JSON's grammar a row may not name a key twice, hold NaN or half a
character, or nest deeper than `DEEPEST`. Which columns a row needs is checked elsewhere.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shlex import quote
from typing import Any, NoReturn

from llmforge.sources import decoding
from llmforge.sources.base import Fault, Raw, excerpt
from llmforge.sources.decoding import mend, not_utf8, numbered
from llmforge.sources.files import opened, override

DEEPEST = 100
"""Levels of lists and objects. Python's own limit depends on who calls; this one does not."""
_BEFORE = 50
"""Characters that the sample of a long line gives to what stands before the fault."""
_MOST_DIGITS = 4300
"""Python refuses to parse longer numbers, because the time grows with their square."""


class Doubtful(ValueError):
    """JSON by its grammar, and yet no row; `doubt` says why and where."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise Doubtful
    return made


def _never(literal: str) -> NoReturn:
    raise Doubtful(literal)


def _finite(number: str) -> float:
    value = float(number)
    if math.isinf(value):
        raise Doubtful(number)
    return value


STRICT = json.JSONDecoder(object_pairs_hook=_once, parse_constant=_never, parse_float=_finite)
"""Raises `json.JSONDecodeError` for what is no JSON, `RecursionError` or another `ValueError` for
what `doubt` explains."""


def check(row: Any, text: str) -> None:
    """Look at what `STRICT` lets pass: half characters and depth.

    Args:
        row: the parsed value.
        text: what it was parsed from; tells cheaply that there is nothing to look for.

    Raises:
        Doubtful: found one.
    """
    # looking for one character is by far the fastest, and most rows need no more
    if "\\" in text and _HALF.search(text):
        try:
            json.dumps(row, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise Doubtful from error
    nested = text.find("{", 1) > 0 or "[" in text
    if nested and text.count("{") + text.count("[") > DEEPEST and _deeper(row, DEEPEST):
        raise Doubtful


def _deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    if levels == 0:
        return True
    inner = value.values() if isinstance(value, dict) else value
    return any(_deeper(each, levels - 1) for each in inner if isinstance(each, dict | list))


_HALF = re.compile(r"\\u[dD]")
_TOKEN = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\]]|NaN|-?Infinity|-?\d[\d.eE+-]*', re.DOTALL)
_COLON = re.compile(r"\s*:")


def doubt(text: str) -> tuple[int, Fault]:
    """Where and why a JSON value is no row: its offset in `text`, and the fault without a place."""
    keys: list[set[str] | None] = []
    """Of the objects that are open, outermost first; None for a list."""
    for match in _TOKEN.finditer(text):
        word = match[0]
        if word in "{[":
            keys.append(set() if word == "{" else None)
            if len(keys) > DEEPEST:
                what = f"is nested too deeply: more than {DEEPEST} levels"
                return match.start(), Fault("LF504", what)
        elif word in "}]":
            keys.pop()
        elif word[0] == '"':
            fault = _string_doubt(word, keys, bool(_COLON.match(text, match.end())))
            if fault is not None:
                return match.start(), fault
        elif word[-1] in "Ny":
            return match.start(), Fault("LF504", f"holds {word}, which is not JSON")
        elif len(word) > _MOST_DIGITS or math.isinf(float(word)):
            what = f"holds a number that is too large: {excerpt(word[:30])}"
            return match.start(), Fault("LF504", what)
    return 0, Fault("LF504", "is not JSON that can be read")


def _string_doubt(token: str, keys: list[set[str] | None], before_colon: bool) -> Fault | None:
    value = json.loads(token)
    try:
        value.encode()
    except UnicodeEncodeError as error:
        escape = f"\\u{ord(value[error.start]):04x}"
        what = f"holds half of a character: {escape} without its other half"
        note = "it cannot be written as UTF-8, so no tokenizer can read it"
        return Fault("LF503", what, notes=(note,))
    if before_colon and keys and keys[-1] is not None:
        if value in keys[-1]:
            return Fault("LF504", f"gives `{excerpt(value)}` twice in one object")
        keys[-1].add(value)
    return None


def said(reason: str) -> str:
    """The words of a `JSONDecodeError` without the `at` of those that a place was to follow."""
    return reason.removesuffix(" at").removesuffix(" starting")


def around(text: str, offset: int) -> str:
    """A sample of `text`: all of it if it is short, else what stands around `offset`."""
    start = offset - _BEFORE
    if start <= 0 or len(text) <= _BEFORE + 30:
        return excerpt(text[:400])
    return excerpt(f"...{text[start : start + 400]}")


@dataclass(frozen=True)
class JsonlPart:
    """The rows of one JSON Lines file, read line by line."""

    name: str
    path: Path

    @property
    def file(self) -> Path:
        return self.path

    def rows(self) -> Iterator[Raw]:
        """Every line that is not blank; see `Part.rows`."""
        decode = STRICT.decode
        seen_utf8 = False
        with opened(self.path, self.name) as stream:
            for number, raw in numbered(stream):
                if raw.isspace():
                    continue
                if len(raw) > decoding.LONGEST_ROW:
                    yield Raw(number, None, decoding.too_long(raw))
                    continue
                try:
                    text = raw.decode()
                    row = decode(text)
                    check(row, text)
                except (ValueError, RecursionError) as error:
                    fault = self._fault(number, raw, error, seen_utf8)
                    yield Raw(number, None, fault)
                    if fault.ends:
                        return
                    continue
                seen_utf8 = seen_utf8 or not text.isascii()
                if isinstance(row, dict):
                    yield Raw(number, row)
                else:
                    yield Raw(number, None, self._no_object(raw))

    def _fault(self, number: int, raw: bytes, error: Exception, seen_utf8: bool) -> Fault:
        if isinstance(error, UnicodeDecodeError):
            return not_utf8(self.name, number, raw, error, seen_utf8)
        text = raw.decode().rstrip("\r\n")
        if not isinstance(error, json.JSONDecodeError):
            at, found = doubt(text)
            return Fault(
                found.code, found.what, at + 1, around(text, at), mend(self.name, number, at + 1),
                notes=found.notes,
            )  # fmt: skip
        if number == 1 and (fault := self._whole_file(raw, text)):
            return fault
        what, hint = f"is not valid JSON: {said(error.msg)}", mend(self.name, number, error.pos)
        notes: tuple[str, ...] = ()
        if text[error.pos : error.pos + 1] == "\0":
            what = "holds a NUL byte, which JSON writes as \\u0000"
        elif error.msg == "Extra data" and "\r" in text[: error.pos + 1]:
            notes = ("lines end in carriage returns only, as on old Macs",)
            hint = f"tr '\\r' '\\n' < {quote(self.name)} > {quote(self.name + '.lines')}"
        elif text.startswith("\ufeff"):
            what = "begins with a byte order mark, which only a file may begin with"
            notes = ("files were put together, it seems",)
            hint = f"sed -i '{number}s/^\\xEF\\xBB\\xBF//' {quote(self.name)}"
        elif not raw.endswith(b"\n"):
            notes = ("it is the last line and has no line break: the file may have been cut short",)
        # a line that ends too early is at fault where it ends, not behind its line break
        at = min(error.pos, len(text))
        return Fault("LF504", what, at + 1, around(text, at), hint, notes=notes)

    def _whole_file(self, raw: bytes, text: str) -> Fault | None:
        """What the first line tells of the whole file: it is JSON, but not one object a line."""
        wide = decoding.guess_wide(raw)
        if wide is not None:
            at = raw.index(0)
            what = f"is not UTF-8: byte 0x00 at position {at}"
            return decoding.other_encoding(self.name, what, raw)
        begin = text.strip()
        if begin.lower().startswith(("<!doctype", "<html")):
            what, hint = "is a web page, not data", "fetch the file again, logged in if need be"
        elif begin == "[":
            what = "begins with a list over several lines, not one object a line"
            hint = f"data=json {override('data.train', self.name)}"
        elif begin == "{":
            what = "begins with an object over several lines, not one object a line"
            hint = f"jq -c . {quote(self.name)} > {quote(self.name + '.lines')}"
        else:
            return None
        return Fault("LF504", what, sample=excerpt(text[:400]), hint=hint, ends=True)

    def _no_object(self, raw: bytes) -> Fault:
        hint = "put one {...} object on each line"
        return Fault("LF504", "is not a JSON object", sample=excerpt(raw[:400]), hint=hint)
