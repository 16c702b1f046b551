"""Snapshots: rows of a source that is no local file, kept as JSON Lines and from then on read so.

In: rows, from a database, a class or a Python list. Out: `<cache>/snapshots/<key>.jsonl`, one JSON
object per row in the source's order, and `<key>.json` with what is known about it. Both are
written beside and renamed whole: nobody ever reads half a snapshot, and two processes that write
the same one do not disturb each other.

A plan holds the digest of the snapshot, so a run trains on exactly the rows that the plan was made
for, however far the database has moved on. Old snapshots are not removed here.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
)
from math import isfinite
from pathlib import Path
from typing import Any

from llmforge.sources.base import Fault, Unusable

_AS_TEXT = (
    *(date, time, timedelta, Decimal, uuid.UUID),  # a datetime is a date
    *(IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network),
)
"""Kinds of values that JSON lacks and that are written as `str` shows them: dates as ISO 8601 with
a space between day and time, as readers of Parquet show them too."""

_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")


class _NotJsonError(Exception):
    """A value that no JSON stands for; `path` leads to it."""

    def __init__(self, path: str, what: str) -> None:
        super().__init__(what)
        self.path = path
        self.what = what


def snapshot(
    cache: Path,
    key: str | None,
    rows: Iterable[Mapping[str, Any]],
    *,
    name: str = "the rows",
    code: str = "LF504",
    hint: str | None = None,
) -> Path:
    """Write rows to the cache; none is lost, none is changed but for values that JSON lacks.

    Dates, times, decimals, UUIDs and network addresses become text as `str` shows them; numpy
    values and arrays become numbers and lists.

    Args:
        cache: the cache folder, `.llmforge`; made when it is not there.
        key: name of the snapshot; None names it by the digest of its content, so that the same
            rows are one file, whose time does not change when they are written again.
        rows: streamed, never held in memory.
        name: what people call these rows, for messages: `table questions`.
        code: of the fault when a value cannot be written.
        hint: what a user may do about such a value.

    Returns:
        Path of the JSON Lines file, below `cache`.

    Raises:
        Unusable: a value cannot be written as JSON: bytes, NaN, a set; names row and column.
            Nothing is left behind.
        OSError: the cache cannot be written.
    """
    if key is not None and not _KEY.fullmatch(key):
        raise ValueError(f"`{key}` cannot be the name of a snapshot")
    folder = cache / "snapshots"
    folder.mkdir(parents=True, exist_ok=True)
    staged = folder / f".{uuid.uuid4().hex}.tmp"
    try:
        facts = _write(staged, rows, name, code, hint)
        target = folder / f"{key or facts['sha256'][:32]}.jsonl"
        if key is None and target.is_file() and _sha256(target) == facts["sha256"]:
            return target
        _write_facts(folder / f"{target.stem}.json", facts)
        staged.replace(target)
        return target
    finally:
        staged.unlink(missing_ok=True)


def snapshot_facts(path: Path) -> dict[str, Any] | None:
    """What is known about a snapshot: `rows`, `bytes`, `sha256`, `columns` in the order they first
    came; None when there is no such whole snapshot."""
    try:
        found = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        whole = isinstance(found, dict) and path.stat().st_size == found.get("bytes")
    except (OSError, ValueError):  # not there, or damaged: both mean that it is made anew
        return None
    return found if whole else None


def from_list(
    rows: Sequence[str | Mapping[str, Any]],
    separator: str | None = None,
    cache: str = ".llmforge",
) -> str:
    """Rows of a Python list as a data file, for `data=jsonl` and `data.train=<the path>`.

    Args:
        rows: texts, or mappings of column to value.
        separator: splits each text into the parts of a `text_parts` row; None makes each a row of
            shape `text`.
        cache: the cache folder, taken from the working folder.

    Returns:
        Path of the file, to be given as `data.train` or `data.evaluation`.

    Raises:
        TypeError: a row is neither text nor a mapping.
        ValueError: the separator is empty, or a value has no JSON form.
    """
    if isinstance(rows, str | bytes | Mapping):
        raise TypeError(f"rows is {type(rows).__name__}; a list of texts or mappings was expected")
    if separator == "":
        raise ValueError("an empty separator separates nothing; None keeps each text whole")
    try:
        path = snapshot(Path(cache), None, _listed(rows, separator), name="the list")
    except Unusable as problem:
        raise ValueError(str(problem)) from problem
    return path.as_posix()


def _listed(
    rows: Sequence[str | Mapping[str, Any]], separator: str | None
) -> Iterable[Mapping[str, Any]]:
    for number, row in enumerate(rows, 1):
        if isinstance(row, Mapping):
            yield row
        elif isinstance(row, str):
            yield {"text": row} if separator is None else {"text_parts": row.split(separator)}
        else:
            kind = type(row).__name__
            raise TypeError(f"row {number} is {kind}; text or a mapping was expected")


def _write(
    staged: Path, rows: Iterable[Mapping[str, Any]], name: str, code: str, hint: str | None
) -> dict[str, Any]:
    digest = hashlib.sha256()
    columns: dict[str, None] = {}
    count = size = 0
    with staged.open("wb") as file:
        for count, row in enumerate(rows, 1):
            try:
                line = _line(row)
            except _NotJsonError as problem:
                column = f" column `{problem.path}`" if problem.path else ""
                what = f"has no JSON form in row {count}{column}: {problem.what}"
                raise Unusable(name, Fault(code, what, hint=hint)) from problem
            columns.update(dict.fromkeys(row))
            digest.update(line)
            size += len(line)
            file.write(line)
        file.flush()
        os.fsync(file.fileno())
    return {"rows": count, "bytes": size, "sha256": digest.hexdigest(), "columns": list(columns)}


def _line(row: Mapping[str, Any]) -> bytes:
    try:
        values = _plain(row, "")
        return (json.dumps(values, ensure_ascii=False, allow_nan=False) + "\n").encode("utf-8")
    except UnicodeEncodeError as error:
        path, value = _where_not_text(row, "")
        what = f"half a surrogate pair (\\u{ord(error.object[error.start]):04x}) in {value!r:.60}"
        raise _NotJsonError(path, what) from error
    except RecursionError as error:
        raise _NotJsonError("", "nested too deeply, or a value that holds itself") from error


def _plain(value: Any, path: str) -> Any:
    """The value in terms of JSON; `path` is where it stands: `messages.0.content`."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        if not isfinite(value):
            raise _NotJsonError(path, f"{value} is not a number that JSON can write")
        return value
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise _NotJsonError(path, f"the key {key!r:.60} is {type(key).__name__}, not text")
        return {key: _plain(item, f"{path}.{key}" if path else key) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, f"{path}.{index}") for index, item in enumerate(value)]
    return _odd(value, path)


def _odd(value: Any, path: str) -> Any:
    """A value that JSON lacks, as the nearest that it has."""
    if isinstance(value, _AS_TEXT):
        if value != value:  # Decimal("NaN"), or pandas' missing time
            raise _NotJsonError(path, f"{value} is not a number that JSON can write")
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        raise _NotJsonError(path, f"{len(bytes(value)):,} bytes; only text can be learnt from")
    if callable(getattr(value, "tolist", None)):  # numpy, without importing it
        return _plain(value.tolist(), path)
    raise _NotJsonError(path, f"a value of type {type(value).__name__}")


def _where_not_text(value: Any, path: str) -> tuple[str, str]:
    """The first text that UTF-8 cannot write, and where it stands."""
    if isinstance(value, str):
        try:
            value.encode("utf-8")
        except UnicodeEncodeError:
            return path, value
    inside: Iterable[tuple[Any, Any]] = ()
    if isinstance(value, Mapping):
        inside = [(key, key) for key in value] + list(value.items())
    elif isinstance(value, list | tuple):
        inside = enumerate(value)
    for key, item in inside:
        found = _where_not_text(item, f"{path}.{key!s}" if path else str(key))
        if found[1]:
            return found[0].encode("utf-8", "replace").decode(), found[1]
    return "", ""


def _write_facts(path: Path, facts: Mapping[str, Any]) -> None:
    staged = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        staged.write_text(json.dumps(facts, ensure_ascii=False, indent=1), encoding="utf-8")
        staged.replace(path)
    finally:
        staged.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
