"""Local files found and opened: a file, a folder, a glob, or several of them; packed ones unpacked.

In: paths as the settings write them. Out: `expand`, every file with its name; `opened`, its bytes
as a stream. What is missing or unreadable raises `Unusable` with the way to mend it. What the
bytes mean is read elsewhere: `jsonl.py`, `json_list.py`, `delimited.py`, `text.py`, `tables.py`.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import io
import lzma
import os
import re
import shlex
import stat
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from llmforge.diagnostics import near
from llmforge.sources.base import Fault, Unusable

PACKED = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz"}
"""Suffixes that are unpacked on reading, and the program that packs so."""
_OPEN: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_BUFFER = 1 << 20
_MAGIC = re.compile(r"[*?\[]")
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile)

_KINDS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv",
    ".tab": "tsv", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
    ".txt": "text",
}  # fmt: skip
"""Which `data` option reads files of a suffix, for hints."""

# what a file begins with that is no text, its name in a message, and what to do about it
_FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "a Git LFS pointer, not the data", "git lfs pull"),
    (b"\x1f\x8b\x08", "packed with gzip under another suffix", "mv {path} {path}.gz"),
    (b"\xfd7zXZ\x00", "packed with xz under another suffix", "mv {path} {path}.xz"),
    (b"\x28\xb5\x2f\xfd", "packed with zstd", "zstd -d {path}"),
    (b"PK\x03\x04", "a ZIP archive or a spreadsheet, not text", "unzip {path}"),
    (b"PAR1\x15", "a Parquet file", "data=parquet"),
    (b"ARROW1\x00\x00", "an Arrow file", "data=arrow"),
    (b"SQLite format 3\x00", "an SQLite database", "data=sql data.url=sqlite:///{path}"),
)


_OTHER_TYPE = re.compile(r"(?i)true|false|null|nan|[+-]?inf|[+-]?[\d._]+(e[+-]?[\d_]+)?")
"""Words that Hydra takes for something else than text."""


def override(key: str, value: str | Path) -> str:
    """`key=value` as it is pasted into a shell, quoted for the shell and for Hydra where needed."""
    text = str(value)
    if re.fullmatch(r"[A-Za-z0-9_./*?@%+:-]+", text) and not _OTHER_TYPE.fullmatch(text):
        return f"{key}={text}"
    # Hydra takes a backslash as it is, unless a quote comes next
    escaped = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + (found[2] and '\\"'), text)
    return shlex.quote(f'{key}="{escaped}"')


def unusable(name: str, what: str, *, code: str = "LF501", hint: str | None = None,
             notes: tuple[str, ...] = ()) -> Unusable:  # fmt: skip
    """An `Unusable` in one line."""
    return Unusable(name, Fault(code, what, hint=hint, notes=notes))


def expand(paths: str | list[str], suffixes: tuple[str, ...], key: str) -> list[tuple[str, Path]]:
    """Every file that `paths` stand for, in a fixed order: (name as people know it, path).

    Args:
        paths: a file, a folder (its files with these suffixes, sub-folders and packed files
            included, hidden ones left out), a glob (the files it matches), or a list of them.
        suffixes: which files of a folder are taken, with the dot: `(".jsonl",)`.
        key: the setting as an override writes it, for hints: `data.train`.

    Raises:
        Unusable: LF501; nothing is there, or a folder or glob has no such file.
    """
    found: list[tuple[str, Path]] = []
    for name in [paths] if isinstance(paths, str) else paths:
        found += _found(name, suffixes, key)
    return found


def _found(name: str, suffixes: tuple[str, ...], key: str) -> list[tuple[str, Path]]:
    path = Path(name).expanduser()
    try:
        mode = path.stat().st_mode if name else 0
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a NUL in the name
        mode = 0
    except OSError as error:
        raise _unreadable(name, error) from error
    if stat.S_ISDIR(mode):
        return _in_folder(name, path, suffixes, key)
    if mode:
        return [(name, path)]
    if _MAGIC.search(name):
        return _matching(name, suffixes, key)
    raise _missing(name, path, key)


def _in_folder(
    name: str, folder: Path, suffixes: tuple[str, ...], key: str
) -> list[tuple[str, Path]]:
    wanted = tuple(s + packed for s in suffixes for packed in ("", *PACKED))
    inside = list(_visible(name, folder))
    found = sorted(path for path in inside if path.name.lower().endswith(wanted))
    if found:
        return [(os.path.join(name, path.relative_to(folder)), path) for path in found]  # noqa: PTH118 - `Path` would rewrite the name as the settings give it
    suffix_of = {suffix for path in inside for suffix in path.suffixes}
    kinds = [kind for suffix, kind in _KINDS.items() if suffix in suffix_of]
    there = ", ".join(sorted(path.name for path in inside)[:3])
    raise unusable(
        name,
        f"is a folder without {' or '.join(suffixes)} files",
        notes=(f"files there: {there}" if inside else "it holds no files",),
        hint=f"data={kinds[0]} {override(key, name)}" if kinds else None,
    )


def _visible(name: str, folder: Path) -> Iterator[Path]:
    def stop(error: OSError) -> None:
        raise _unreadable(name, error) from error

    for place, folders, files in os.walk(folder, onerror=stop):
        folders[:] = [inner for inner in folders if not inner.startswith(".")]
        yield from (Path(place, file) for file in files if not file.startswith("."))


def _matching(name: str, suffixes: tuple[str, ...], key: str) -> list[tuple[str, Path]]:
    pattern = os.path.expanduser(name)  # noqa: PTH111 - a pattern is no path yet
    matched = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - keeps names as written
    found = [(text, Path(text)) for text in matched if Path(text).is_file()]
    if found:
        return found
    fixed = Path(*[part for part in Path(pattern).parts if not _MAGIC.search(part)])
    others = [path for path in _siblings(fixed) if path.name.lower().endswith(suffixes)]
    raise unusable(
        name,
        "matches no file",
        notes=(
            f"there is no folder {fixed}"
            if not fixed.is_dir()
            else f"it matches folders only: {matched[0]}"
            if matched
            else f"looked from {Path.cwd()}",
        ),
        hint=override(key, fixed / f"*{min(others).suffix}") if others else None,
    )


def _siblings(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:  # a folder that may not be listed gives no hints; the fault is told anyway
        return []


def _missing(name: str, path: Path, key: str) -> Unusable:
    parent = path.parent
    guess = near(path.name, [p.name for p in _siblings(parent) if p != path]) if name else []
    notes = (f"looked from {Path.cwd()}",)
    if parent.is_file():
        notes = (f"{parent} is a file, not a folder",)
    elif not parent.is_dir():
        notes = (f"there is no folder {parent}",)
    elif path.is_symlink():
        notes, guess = (f"it is a link to {path.readlink()}, which is not there",), []
    return unusable(
        f"data file {name or repr(name)}",
        "does not exist",
        notes=notes,
        hint=override(key, parent / guess[0]) if guess else None,
    )


def _unreadable(name: str, error: OSError) -> Unusable:
    hint = f"chmod u+r {shlex.quote(name)}" if isinstance(error, PermissionError) else None
    return unusable(f"data file {name}", f"cannot be read: {error.strerror or error}", hint=hint)


class _Guarded(io.RawIOBase):
    """A stream whose damage is told as `Unusable`, however late it shows."""

    def __init__(self, inner: IO[bytes], path: Path, name: str) -> None:
        super().__init__()
        self._inner, self._path, self._name = inner, path, name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any writable buffer
        with _told(self._path, self._name):
            data = self._inner.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._inner.close()
        super().close()


@contextmanager
def _told(path: Path, name: str) -> Iterator[None]:
    try:
        yield
    except (*_DAMAGED, OSError) as error:
        packed = PACKED.get(path.suffix.lower())
        # an operating system's error has a number, a broken archive's has none
        if packed is None or (isinstance(error, OSError) and error.errno is not None):
            raise _unreadable(name, cast("OSError", error)) from error
        cut = isinstance(error, EOFError)
        raise unusable(
            name,
            f"is cut short: its {packed} data has no end"
            if cut
            else f"is not sound {packed} data: {error}",
            notes=("fetch or pack it again; rows before the damage are not used either",),
            hint=f"{packed} -t {shlex.quote(name)}",
        ) from error


def foreign(name: str, start: bytes) -> Unusable | None:
    """What a file is that begins with `start`, if that is no text; None if it may be text."""
    for magic, what, remedy in _FOREIGN:
        if start.startswith(magic):
            hint = remedy.replace("{path}", shlex.quote(name))
            return unusable(name, f"is {what}", code="LF504", hint=hint)
    return None


def check_regular(path: Path, name: str) -> None:
    """Refuse a folder, a pipe, and what is not there.

    Raises:
        Unusable: LF501.
    """
    with _told(path, name):
        mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise unusable(name, "is a folder, not a file")
    if not stat.S_ISREG(mode):
        note = "rows are read more than once, so they must stand in a file"
        raise unusable(name, "is a pipe or a device, not a file", notes=(note,))


def opened(path: Path, name: str | None = None) -> io.BufferedReader[Any]:
    """The bytes of a file, unpacked by its suffix; close it after use.

    Args:
        path: the file.
        name: as people know it, for messages; the path if None.

    Raises:
        Unusable: LF501, now or while reading: not there, a folder, no rights, a broken archive;
            LF504: a binary file of a kind that holds no text.
    """
    shown = name or str(path)
    check_regular(path, shown)
    with _told(path, shown):
        unpack = _OPEN.get(path.suffix.lower()) if path.stat().st_size else None
        inner = cast("IO[bytes]", unpack(path, "rb") if unpack else path.open("rb", buffering=0))
    stream: io.BufferedReader[Any] = io.BufferedReader(_Guarded(inner, path, shown), _BUFFER)
    try:
        other = foreign(shown, stream.peek(32))
        if other is not None:
            raise other
    except Unusable:
        stream.close()
        raise
    return stream
