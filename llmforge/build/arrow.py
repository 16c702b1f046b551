"""Tokenised rows to Arrow files on disk, in batches, every row accounted for.

In: the rows of one side, a tokenizer, a plan. Out: a data set folder that is mapped into memory
when it is opened, and a report in which rows = used + rejected. Rows are held a batch at a time.

This module does not decide what carries loss (`tokenize.py`) or when data are made
(`stages/prepare.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

import datasets
import pyarrow as pa  # type: ignore[import-untyped]

from llmforge import registry
from llmforge.build.data import Row
from llmforge.build.errors import DataRefused
from llmforge.build.sample import Rejected, Sample, fit
from llmforge.plan import Plan
from llmforge.schema.data import CollatorSpec

_BATCH = 1000
_PLACES_SHOWN = 5


def write_split(
    plan: Plan, tokenizer: Any, rows: Iterable[Row], folder: Path, receipt: TextIO
) -> dict[str, Any]:
    """Tokenise one side into `folder`; returns its part of the report.

    Raises:
        DataRefused: rows are too long and `collator.truncation` is `refuse`, or no row is left.
    """
    build = registry.component("collator", plan.spec.collator.kind).load_builder()
    counts = _Counts(plan.spec.collator, receipt)
    # what is asked of the model when it is evaluated, for people to read
    with_prompt = folder.name == "evaluation"
    schema = _schema(with_prompt)
    stream = folder.with_suffix(".arrow")
    with pa.OSFile(str(stream), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for batch in _batches(rows):
            table: dict[str, list[Any]] = {name: [] for name in schema.names}
            for row, made in zip(batch, build(batch, tokenizer, plan), strict=True):
                sample = counts.take(row, made)
                if sample is None:
                    continue
                table["input_ids"].append(sample.ids)
                table["labels"].append(sample.labels)
                table["length"].append(len(sample.ids))
                table["source_row"].append(counts.rows - 1)
                if with_prompt:
                    table["prompt"].append(sample.prompt)
            writer.write_batch(pa.record_batch(table, schema=schema))
    counts.refuse_if_unusable(folder.name)
    datasets.utils.disable_progress_bars()
    datasets.Dataset.from_file(str(stream)).save_to_disk(folder)
    stream.unlink()
    return counts.report()


def _schema(with_prompt: bool) -> Any:
    tokens = pa.list_(pa.int32())
    columns = [("input_ids", tokens), ("labels", tokens), ("length", pa.int32())]
    columns += [("source_row", pa.int64())]
    return pa.schema(columns + ([("prompt", pa.string())] if with_prompt else []))


class _Counts:
    """What becomes of the rows of one side."""

    def __init__(self, spec: CollatorSpec, receipt: TextIO) -> None:
        self._longest_allowed, self._truncation = int(spec.max_length), spec.truncation
        self._receipt = receipt
        self.rows = self.used = self.truncated = self.tokens = self.trained = self.longest = 0
        self.rejected: Counter[str] = Counter()
        self.refused: list[tuple[str, int]] = []

    def take(self, row: Row, made: Sample | Rejected) -> Sample | None:
        """The sample as it is written, or None for a row that is not used."""
        self.rows += 1
        over = isinstance(made, Sample) and len(made.ids) > self._longest_allowed
        if isinstance(made, Sample):
            if over and self._truncation == "refuse":
                self.refused.append((row.place, len(made.ids)))
                return None
            made = fit(made, self._longest_allowed, self._truncation)
        if isinstance(made, Rejected):
            self.rejected[made.reason] += 1
            note = {"source": row.source, "line": row.line, "reason": made.reason}
            self._receipt.write(json.dumps(note, ensure_ascii=False) + "\n")
            return None
        self.used += 1
        self.truncated += over
        self.tokens += len(made.ids)
        self.trained += made.trained
        self.longest = max(self.longest, len(made.ids))
        return made

    def refuse_if_unusable(self, side: str) -> None:
        if self.refused:
            raise DataRefused(_refusal(self.refused, self._longest_allowed))
        if self.used == 0:
            reasons = ", ".join(f"{count} {reason}" for reason, count in self.rejected.items())
            raise DataRefused(
                f"no {side} row is left of {self.rows}: {reasons or 'there were none'}"
            )

    def report(self) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "used": self.used,
            "rejected": dict(sorted(self.rejected.items())),
            "truncated": self.truncated,
            "tokens": self.tokens,
            "tokens_trained": self.trained,
            "tokens_masked": self.tokens - self.trained,
            "longest": self.longest,
        }


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    for row in rows:
        batch.append(row)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


def _refusal(refused: list[tuple[str, int]], longest: int) -> str:
    shown = ", ".join(f"{place} ({length} tokens)" for place, length in refused[:_PLACES_SHOWN])
    more = len(refused) - _PLACES_SHOWN
    return (
        f"{len(refused)} rows are longer than collator.max_length={longest}: {shown}"
        + (f" and {more} more" if more > 0 else "")
        + "; hint: collator.truncation=right, or drop to leave them out"
    )
