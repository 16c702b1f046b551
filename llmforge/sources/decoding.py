"""Bytes to text: lines that end in a line feed only, and what to say when they are not UTF-8.

In: an opened stream, or the bytes of a row. Out: `numbered` lines, `not_utf8` faults with a guess
at the encoding, and the commands that show a line. Shared by the readers of text files; what a line
means is theirs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from typing import IO

from llmforge.sources.base import Fault, excerpt

LONGEST_ROW = 128 << 20
"""Bytes of one row; a longer one is a fault. What has no line breaks at all (a damaged or foreign
file) must not fill the memory."""
BOM = b"\xef\xbb\xbf"
_SURROGATE = re.compile(rb"\xed[\xa0-\xbf][\x80-\xbf]")
_HIGH = re.compile(rb"[\x80-\xff]+")
_UNPACK = {".gz": "zcat", ".bz2": "bzcat", ".xz": "xzcat"}
_PACK = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}
_LOOKED_AT = 1 << 16
_LONG = 400
"""Characters; of a longer line a hint shows a part."""


def numbered(stream: IO[bytes]) -> Iterator[tuple[int, bytes]]:
    """Lines with their numbers from 1, line break included, a byte order mark taken off.

    Of a line longer than `LONGEST_ROW` only that much and one byte comes; the rest is passed over.
    """
    limit = LONGEST_ROW + 1
    number = 1
    raw = stream.readline(limit)
    while raw:
        cut = len(raw) == limit and not raw.endswith(b"\n")
        if number == 1 and not cut:
            raw = raw.removeprefix(BOM)
        if raw:  # a mark alone is an empty file
            yield number, raw
        while cut:
            rest = stream.readline(limit)
            cut = len(rest) == limit and not rest.endswith(b"\n")
        number += 1
        raw = stream.readline(limit)


def too_long(raw: bytes | str) -> Fault:
    """The fault of a row beyond `LONGEST_ROW`."""
    return Fault(
        "LF504",
        f"is longer than {LONGEST_ROW >> 20} MiB, the most that a row may have",
        sample=excerpt(raw[:400]),
        hint="split it, or take it out: it is more than any model sees at once",
    )


def show_line(name: str, number: int, column: int | None = None) -> str:
    """The command that prints a line, of a packed file too; of a long line what is at `column`."""
    path = shlex.quote(name)
    command = f"sed -n {number}p {path}"
    for suffix, unpack in _UNPACK.items():
        if name.lower().endswith(suffix):
            command = f"{unpack} {path} | sed -n {number}p"
    if column is not None and column > _LONG:
        command += f" | cut -c {column - _LONG // 2}-{column + _LONG // 2}"
    return command


def mend(name: str, number: int, column: int | None = None) -> str:
    """The hint for one faulty line."""
    return f"mend or remove that line: {show_line(name, number, column)}"


def not_utf8(name: str, number: int, raw: bytes, error: UnicodeDecodeError, utf8: bool) -> Fault:
    """LF503 for a line, or for a whole file in another encoding.

    Args:
        name: of the file.
        number: of the line.
        raw: its bytes.
        error: what decoding them raised.
        utf8: lines before it had characters beyond ASCII, and were UTF-8.
    """
    what = f"is not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start}"
    sample = excerpt(raw[:400])
    if _SURROGATE.search(raw):
        note = "half a character (a surrogate) is written there as if it were one"
        return Fault("LF503", what, sample=sample, hint=mend(name, number), notes=(note,))
    # other encodings look like UTF-8 here and there, so what can be read has to outweigh the rest
    shown = raw[:_LOOKED_AT].decode("utf-8", "replace")
    wrong = shown.count("\ufffd")
    right = sum(not character.isascii() for character in shown) - wrong
    utf8 = utf8 or right >= wrong or error.end - error.start > 1
    if guess_wide(raw) is None and utf8:
        note = "the lines before it are UTF-8, so this one is damaged"
        if error.end == len(raw) and error.reason == "unexpected end of data":
            note = "the file ends in the middle of a character: it was cut short"
        return Fault("LF503", what, sample=sample, hint=mend(name, number), notes=(note,))
    return other_encoding(name, what, raw)


def other_encoding(name: str, what: str, raw: bytes) -> Fault:
    """LF503 for a file that is not UTF-8 as a whole; ends the part."""
    guess = guess_wide(raw) or _guess_narrow(raw)
    note = f"it looks like {guess}"
    if guess is None:
        note = "it looks like an East Asian or Cyrillic encoding: GB18030, Shift_JIS, KOI8-R, ..."
    return Fault(
        "LF503",
        what,
        sample=excerpt(raw[:400]),
        hint=convert(name, guess or "ITS-ENCODING"),
        notes=(note,),
        ends=True,
    )


def convert(name: str, encoding: str) -> str:
    """The command that turns a file into UTF-8."""
    path, made = shlex.quote(name), shlex.quote(f"{name}.utf8")
    for suffix, pack in _PACK.items():
        if name.lower().endswith(suffix):
            source = f"{_UNPACK[suffix]} {path} | iconv -f {encoding} -t UTF-8 | {pack}"
            return f"{source} > {made} && mv {made} {path}"
    return f"iconv -f {encoding} -t UTF-8 {path} > {made} && mv {made} {path}"


def guess_wide(raw: bytes) -> str | None:
    """UTF-16 or UTF-32 by its mark or its zero bytes; None for anything else."""
    if raw.startswith((b"\xff\xfe\x00\x00", b"\x00\x00\xfe\xff")):
        return "UTF-32"
    if raw.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "UTF-16"
    start = raw[:_LOOKED_AT]
    odd, even = start[1::2].count(0), start[::2].count(0)
    # nearly every second byte is zero: Latin letters without a mark
    if len(start) >= 4 and max(odd, even) > 0.4 * len(start) > 4 * min(odd, even):
        return "UTF-16LE" if odd > even else "UTF-16BE"
    return None


def _guess_narrow(raw: bytes) -> str | None:
    """A one-byte encoding of Western Europe, where single letters stand between ASCII ones."""
    runs = [len(run) for run in _HIGH.findall(raw[:_LOOKED_AT])]
    if sum(length for length in runs if length > 1) > 0.6 * sum(runs) and sum(runs) >= 4:
        return None
    # 0x80-0x9f are control characters in ISO-8859-1, quotes and dashes in Windows' own
    return "WINDOWS-1252" if re.search(rb"[\x80-\x9f]", raw[:_LOOKED_AT]) else "ISO-8859-1"
