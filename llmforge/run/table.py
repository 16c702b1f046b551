"""The table of a run: `metrics.csv`, one row for each step that was recorded.

In: the journal. Out: rows, and the file, written whole each time it is asked for. Columns are
`step`, `epoch`, `seconds`, then the metrics in the order in which they first came. A step that was
run twice, since a run was killed and went on, stands there once, as it was run the last time.

The journal stays the record; whoever wants other columns derives them from this table.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from llmforge.run import journal

NAME = "metrics.csv"
FIRST = ("step", "epoch", "seconds")


@dataclass
class TableRow:
    """What is known of one step."""

    step: int
    """Optimizer steps done; 0 is the untrained model."""
    seconds: float
    """Wall time of training until then, waits between attempts left out."""
    values: dict[str, float] = field(default_factory=dict)


def rows(journal_file: Path) -> list[TableRow]:
    """One row per recorded step, by step."""
    found: dict[int, TableRow] = {}
    before, start, last = 0.0, None, 0
    for line, _ in journal.read(journal_file):
        if line.mark == "attempt":
            before += (last - start) / 1000 if start is not None else 0.0
            start = line.time_ms
            found = {step: row for step, row in found.items() if step <= line.step}
        start = line.time_ms if start is None else start
        last = line.time_ms
        if line.values:
            row = found.setdefault(line.step, TableRow(line.step, 0.0))
            row.seconds = before + (line.time_ms - start) / 1000
            row.values |= line.values
    return [found[step] for step in sorted(found)]


def write_table(journal_file: Path, target: Path) -> Path | None:
    """Write the table; None, and no file, while nothing was recorded.

    Raises:
        OSError: it could not be written; a table that was there is as it was.
    """
    table = rows(journal_file)
    if not table:
        return None
    columns = list(dict.fromkeys(name for row in table for name in row.values))
    metrics = [name for name in columns if name not in FIRST]
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    with staged.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow((*FIRST, *metrics))
        for row in table:
            seconds = f"{row.seconds:.3f}"
            cells = [_cell(row.values, name) for name in ("epoch", *metrics)]
            writer.writerow((row.step, cells[0], seconds, *cells[1:]))
    staged.replace(target)
    return target


def _cell(values: Mapping[str, float], name: str) -> str:
    # as Python writes it: nothing is cut off, and it reads back as the same number
    return repr(values[name]) if name in values else ""
