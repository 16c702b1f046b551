"""The metrics journal: what the training loop writes, and everyone else reads.

In: named numbers and the optimizer step they belong to. Out: `metrics.jsonl`, one JSON object a
line, only ever appended to. A line reaches the kernel before `append` returns, so a killed process
loses nothing it wrote. An attempt starts with a mark: `{"mark": "attempt", "attempt": 2,
"from_step": 50, "t": ...}`; after it, steps above `from_step` count again.

Numbers that JSON does not have (NaN, infinities) are written as text and read back as numbers.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO


@dataclass(frozen=True)
class Row:
    """One line of the journal."""

    time_ms: int
    """Milliseconds since 1970."""
    step: int
    values: Mapping[str, float] = field(default_factory=dict)
    mark: str | None = None
    """`attempt` for the first line of an attempt; such a line has no values."""


class Journal:
    """Appends; one writer at a time."""

    def __init__(self, path: Path) -> None:
        self._file: BinaryIO = path.open("ab", buffering=0)
        self._heal(path)

    def _heal(self, path: Path) -> None:
        """A process killed inside a write leaves half a line; end it, so that the next is whole."""
        if self._file.tell():
            with path.open("rb") as stream:
                stream.seek(-1, 2)
                if stream.read(1) != b"\n":
                    self._file.write(b"\n")

    def attempt(self, number: int, from_step: int) -> None:
        """Mark the start of an attempt that continues after `from_step` optimizer steps."""
        self._write({"t": _now(), "mark": "attempt", "attempt": number, "from_step": from_step})

    def append(self, values: Mapping[str, float], step: int) -> None:
        """Add one line; what is no number is left out."""
        numbers = {key: _plain(value) for key, value in values.items() if _is_number(value)}
        if numbers:
            self._write({"t": _now(), "step": step, "values": numbers})

    def _write(self, line: Mapping[str, Any]) -> None:
        self._file.write(json.dumps(line, separators=(",", ":")).encode() + b"\n")

    def close(self) -> None:
        """Nothing is pending; this only frees the file."""
        self._file.close()


def take_over(path: Path, other: Path, rows: Sequence[Row]) -> None:
    """Append another journal, and `rows` of this one, at the time of the other's last line.

    The other begins with an attempt of its own, so what stands here already counts no more.
    """
    times = [row.time_ms for row, _ in read(other)]
    own = Journal(path)
    own._file.write(other.read_bytes() if times else b"")  # noqa: SLF001 - of this module
    own._heal(path)  # noqa: SLF001 - as above
    for row in rows:
        values = dict(row.values)
        own._write({"t": times[-1] if times else _now(), "step": row.step, "values": values})  # noqa: SLF001 - as above
    own.close()


def read(path: Path, offset: int = 0) -> Iterator[tuple[Row, int]]:
    """Whole lines from `offset` bytes on, each with the offset after it.

    A line still being written is left for later; half a line that a killed process left behind is
    passed over.
    """
    try:
        stream = path.open("rb")
    except FileNotFoundError:
        return
    with stream:
        stream.seek(offset)
        for line in stream:
            if not line.endswith(b"\n"):
                return
            offset += len(line)
            row = _parse(line)
            if row is not None:
                yield row, offset


def history(path: Path) -> dict[str, dict[int, float]]:
    """`{metric: {step: value}}`; a step that was run twice counts as run the last time."""
    found: dict[str, dict[int, float]] = {}
    for row, _ in read(path):
        if row.mark == "attempt":
            for points in found.values():
                for step in [step for step in points if step > row.step]:
                    del points[step]
        for key, value in row.values.items():
            found.setdefault(key, {})[row.step] = value
    return {key: dict(sorted(points.items())) for key, points in found.items() if points}


def seconds(path: Path) -> float:
    """Wall time between the first and the last line of each attempt, summed over attempts."""
    total, start, last = 0.0, None, 0
    for row, _ in read(path):
        if row.mark == "attempt":
            total += (last - start) / 1000 if start is not None else 0.0
            start = row.time_ms
        last = row.time_ms
    return total + ((last - start) / 1000 if start is not None else 0.0)


def _parse(line: bytes) -> Row | None:
    try:
        data = json.loads(line)
        if "mark" in data:
            return Row(data["t"], data["from_step"], {}, data["mark"])
        values = {key: float(value) for key, value in data["values"].items()}
        return Row(data["t"], data["step"], values)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _now() -> int:
    return time.time_ns() // 1_000_000


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _plain(value: float) -> float | str:
    return value if math.isfinite(value) else str(float(value))
