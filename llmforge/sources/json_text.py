"""The text of a JSON file as a window that moves forward, value by value.

In: an opened stream. Out: `Text`, which gives one value at a time and knows the line and column it
stands at; `Ends`, raised where the file can be read no further. What the values mean is told in
`json_list.py`.
"""

from __future__ import annotations

import codecs
import io
import json
import re
from dataclasses import replace
from typing import Any

from llmforge.sources import decoding
from llmforge.sources.base import Fault, excerpt
from llmforge.sources.decoding import not_utf8, show_line
from llmforge.sources.files import override
from llmforge.sources.jsonl import STRICT, around, check, doubt, said

CHUNK = 1 << 18
_SPACE = re.compile(r"[ \t\r\n]*")
_NEAR_END = 16
"""An error so close to the end of the buffer may only mean that more has to be read: the longest
literal, `-Infinity`, and the longest escape are shorter."""
_LENIENT = json.JSONDecoder(parse_int=str)


class Ends(Exception):
    """The part ends here, with this fault at this line."""

    def __init__(self, line: int, fault: Fault) -> None:
        super().__init__(fault.what)
        self.line, self.fault = line, fault


class Text:
    """A file's text as a window that moves forward; `line` and `column` are where it stands."""

    def __init__(self, stream: io.BufferedReader[Any], name: str) -> None:
        self.name, self.line, self.column = name, 1, 1
        self._stream, self._buffer, self._at = stream, "", 0
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self._first, self._ended = True, False
        self._broken: tuple[bytes, UnicodeDecodeError] | None = None

    def _fill(self) -> bool:
        """Read more, as much again as is held; false at the end."""
        if self._ended:
            return False
        self._buffer = self._buffer[self._at :]
        self._at = 0
        if len(self._buffer) > decoding.LONGEST_ROW:
            raise Ends(self.line, replace(decoding.too_long(self._buffer), ends=True))
        raw = self._stream.read(max(CHUNK, len(self._buffer)))
        self._ended = not raw
        try:
            self._buffer += self._decoder.decode(raw, final=not raw)
        except UnicodeDecodeError as error:
            # rows before the byte are whole, so they are read first
            self._broken, self._ended = (error.object, error), True
            begin = error.object[: error.start].decode()
            self._buffer += begin.removeprefix("\ufeff") if self._first else begin
        self._first = False
        return True

    @property
    def broken(self) -> bool:
        """A byte that is no UTF-8 was met; the text ends before it."""
        return self._broken is not None

    def peek(self) -> str:
        """The next character that is no white space; empty at the end."""
        while True:
            self._go(_SPACE.match(self._buffer, self._at).end())  # type: ignore[union-attr]  # matches always
            if self._at < len(self._buffer) or not self._fill():
                return self._buffer[self._at : self._at + 1]

    def take(self, wanted: str, why: str) -> str:
        """The next character, which must be one of `wanted`."""
        found = self.peek()
        if not found or found not in wanted:
            raise self.stop(why)
        self._go(self._at + 1)
        return found

    def value(self) -> tuple[Any, Fault | None]:
        """The next value; instead of it the fault of one that is JSON, but no row."""
        self.peek()
        while True:
            text, start = self._buffer, self._at
            fault = None
            try:
                try:
                    value, end = STRICT.raw_decode(text, start)
                    check(value, text[start:end])
                except json.JSONDecodeError:
                    raise
                except (ValueError, RecursionError):
                    value, end = _LENIENT.raw_decode(text, start)
                    fault = self._doubt(text[start:end])
            except json.JSONDecodeError as error:
                cut = "Unterminated string" in error.msg or error.pos + _NEAR_END > len(text)
                if cut and self._fill():
                    continue
                raise self.stop(error.msg, error.pos, cut) from error
            except RecursionError as error:
                what = "is nested too deeply to find its end"
                raise Ends(self.line, Fault("LF504", what, ends=True)) from error
            if end == len(text) and self._fill():
                continue  # a number may go on
            self._go(end)
            return value, fault

    def _doubt(self, text: str) -> Fault:
        at, found = doubt(text)
        where = text.count("\n", 0, at)
        column = at - text.rfind("\n", 0, at) if where else self.column + at
        what = found.what if not where else f"{found.what} (line {self.line + where})"
        hint = f"mend or remove that row: {show_line(self.name, self.line + where, column)}"
        return Fault(found.code, what, None if where else column, around(text, at), hint,
                     notes=found.notes)  # fmt: skip

    def stop(self, reason: str, at: int | None = None, cut: bool = True) -> Ends:
        """The end of the part: at `at` in the buffer, or here, the text is no JSON.

        `cut` says that the text may only be too short, which a bad byte can be the reason of.
        """
        if self._broken is not None and cut:
            self._go(len(self._buffer))  # that is where the bad byte stands
            return Ends(self.line, self._undecoded(*self._broken))
        self._go(self._at if at is None else at)
        text = self._buffer[self._at : self._at + 400]
        what, notes = f"is not valid JSON: {said(reason)}", list[str]()
        if not text.strip():
            what, notes = f"ends too early: {reason}", ["the file was cut short"]
        elif text[0] == "\0":
            what = "holds a NUL byte, which JSON writes as \\u0000"
        before = self._buffer[max(0, self._at - 40) : self._at]
        show = show_line(self.name, self.line, self.column)
        hint = f"mend it there; what follows cannot be read: {show}"
        if reason.startswith("Extra data") and text[:1] == "{":
            hint = f"data=jsonl {override('data.train', self.name)}"
            notes = ["the file seems to be one object after the other"]
        elif reason.startswith("Unterminated"):
            notes = ["the string is never closed, or the file was cut short"]
        sample = excerpt(before + text)
        fault = Fault("LF504", what, self.column, sample, hint, notes=tuple(notes), ends=True)
        return Ends(self.line, fault)

    def _undecoded(self, raw: bytes, error: UnicodeDecodeError) -> Fault:
        fault = not_utf8(self.name, self.line, raw, error, utf8=False)
        what = f"is not UTF-8: byte 0x{raw[error.start]:02x}"
        sample = excerpt(raw[max(0, error.start - 40) :][:400])
        return replace(fault, what=what, column=self.column, sample=sample, ends=True)

    def _go(self, at: int) -> None:
        """Move to `at` in the buffer."""
        breaks = self._buffer.count("\n", self._at, at)
        if breaks:
            self.line += breaks
            self.column = at - self._buffer.rfind("\n", self._at, at)
        else:
            self.column += at - self._at
        self._at = at
