"""Tokenised rows to Arrow files on disk, batch by batch, every row accounted for.

In: streams of rows, makers of samples. Out: one Arrow stream file per side, which is mapped into
memory when it is opened; its part of the report, in which rows = used + rejected; and a line in the
receipt for every row that was left out or cut.

This module does not decide what carries loss (`tokenize.py`), what stops a run
(`build/thresholds.py`) or when data are made (`stages/prepare.py`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pyarrow as pa  # type: ignore[import-untyped]

from llmforge.build.batches import Made, Makers, trained
from llmforge.build.data import Item
from llmforge.build.errors import DataRefused
from llmforge.build.sample import REJECTED_IDS, REJECTED_LABELS

_PLACES_SHOWN = 5

_TOKENS = 2_000_000
"""Of a record batch. Opening a file touches every one of them, so many small ones would fill the
memory with pages of a file that is only looked at."""

HISTOGRAM_EDGES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
"""Upper ends of the length histogram's classes, in tokens; longer samples make the last class."""

Digests = np.ndarray[Any, np.dtype[np.uint64]]


class Side:
    """One file being written: the training samples, or those of all evaluation sets."""

    def __init__(
        self,
        path: Path,
        receipt: TextIO,
        longest: int,
        with_prompts: bool,
        with_pairs: bool = False,
    ) -> None:
        """
        Args:
            path: of the file.
            receipt: takes a line for each row that is left out or cut.
            longest: tokens that a sample may have.
            with_prompts: keep what people read as the question.
            with_pairs: samples are pairs; `length` is the longer one's.
        """
        self._path, self._receipt, self._longest = path, receipt, longest
        self._with_prompts, self._with_pairs = with_prompts, with_pairs
        self._schema = _schema(with_prompts, with_pairs)
        self._tokens = hashlib.sha256()
        self._digests: list[Digests] = []
        self._lengths: list[Any] = []
        self.counts: dict[str, Counter[str]] = {}
        self.rejected: dict[str, Counter[str]] = {}
        self._refused: list[tuple[str, int]] = []
        self._places: dict[str, list[str]] = {}
        """The first rows rejected for each reason."""

    def write(self, streams: Mapping[str, Iterable[Item]], makers: Makers) -> None:
        """Write the samples of every stream, one after the other.

        Raises:
            DataRefused: rows are too long and `collator.truncation` is `refuse`.
        """
        with (
            pa.OSFile(str(self._path), "wb") as sink,
            pa.ipc.new_stream(sink, self._schema) as writer,
        ):
            for number, (name, items) in enumerate(streams.items()):
                self.counts[name], self.rejected[name] = Counter(), Counter()
                held: list[Made] = []
                for batch, made in makers.made(items, self._with_prompts):
                    made.owners += self.counts[name]["rows"]  # of the batch -> of the set
                    self._account(name, batch, made)
                    held.append(made)
                    if sum(len(each.ids) for each in held) >= _TOKENS:
                        writer.write_batch(self._record(held, number))
                        held = []
                if any(made.lengths.size for made in held):
                    writer.write_batch(self._record(held, number))
        if self._refused:
            raise DataRefused(_refusal(self._refused, self._longest))

    @property
    def lengths(self) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Tokens of every sample, in order."""
        return np.concatenate(self._lengths) if self._lengths else np.empty(0, np.int32)

    @property
    def digests(self) -> Digests:
        """64 bits of every sample's tokens, in order."""
        return np.concatenate(self._digests) if self._digests else np.empty(0, np.uint64)

    def report(self) -> dict[str, Any]:
        """What became of the rows, and how many tokens there are."""
        total: Counter[str] = sum(self.counts.values(), Counter())
        lengths = self.lengths
        places = np.searchsorted(np.asarray(HISTOGRAM_EDGES), lengths)
        classes = np.bincount(places, minlength=len(HISTOGRAM_EDGES) + 1)
        return {
            **_told(total, sum(self.rejected.values(), Counter())),
            "longest": int(lengths.max()) if lengths.size else 0,
            "lengths": {"up_to": list(HISTOGRAM_EDGES), "samples": [int(n) for n in classes]},
            "duplicates": int(lengths.size - np.unique(self.digests).size),
            "token_digest": self._tokens.hexdigest(),
            "first_rejected": self._places,
            "sets": {name: _told(self.counts[name], self.rejected[name]) for name in self.counts},
        }

    def _account(self, name: str, batch: list[Item], made: Made) -> None:
        counts, rejected = self.counts[name], self.rejected[name]
        counts["rows"] += len(batch)
        for row, reason, detail in made.rejected:
            rejected[reason] += 1
            shown = self._places.setdefault(reason, [])
            if len(shown) < _PLACES_SHOWN:
                shown.append(f"{batch[row].place}{f': {detail}' if detail else ''}")
            self._note(name, batch[row], reason, detail)
        for row, tokens in made.cut.items():
            self._note(name, batch[row], "cut", f"{tokens} tokens")
        self._refused += [(batch[row].place, tokens) for row, tokens in made.too_long]
        counts["used"] += len(batch) - len(made.rejected) - len(made.too_long)
        counts["samples"] += len(made.lengths)
        counts["truncated"] += len(made.cut)
        counts["tokens"] += len(made.ids) + len(made.rejected_ids)
        counts["tokens_trained"] += trained(made.labels) + trained(made.rejected_labels)
        counts["tokens_cut"] += sum(made.cut.values())
        counts["ends_trained"] += made.ends

    def _note(self, name: str, item: Item, reason: str, detail: str) -> None:
        note = {"set": name, "source": item.source, "line": item.line, "reason": reason}
        if detail:
            note["detail"] = detail
        self._receipt.write(json.dumps(note, ensure_ascii=False) + "\n")

    def _record(self, held: list[Made], number: int) -> Any:
        ids, labels, lengths, owners = (
            np.concatenate([getattr(made, column) for made in held])
            for column in ("ids", "labels", "lengths", "owners")
        )
        offsets = _offsets(lengths)
        self._tokens.update(ids)
        self._tokens.update(labels)
        digests = _digests(ids, offsets)
        worse: list[Any] = []
        if self._with_pairs:
            ids_, labels_, lengths_ = (
                np.concatenate([getattr(made, f"rejected_{column}") for made in held])
                for column in ("ids", "labels", "lengths")
            )
            places = _offsets(lengths_)
            self._tokens.update(ids_)
            self._tokens.update(labels_)
            # a pair is the same where both answers are, each in its place
            digests = digests * np.uint64(3) + _digests(ids_, places)
            lengths = np.maximum(lengths, lengths_)
            worse = [
                pa.ListArray.from_arrays(pa.array(places), pa.array(each))
                for each in (ids_, labels_)
            ]
        self._lengths.append(lengths)
        self._digests.append(digests)
        columns = [
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(ids)),
            pa.ListArray.from_arrays(pa.array(offsets), pa.array(labels)),
            pa.array(lengths),
            pa.array(owners),
            pa.array(np.full(len(lengths), number, np.int16)),
            *worse,
        ]
        if self._with_prompts:
            columns.append(
                pa.array([prompt for made in held for prompt in made.prompts], pa.string())
            )
        return pa.record_batch(columns, schema=self._schema)


def _offsets(lengths: Any) -> Any:
    """Where each sample begins, and where the last one ends."""
    offsets = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def _schema(with_prompts: bool, with_pairs: bool) -> Any:
    tokens = pa.list_(pa.int32())
    columns = [("input_ids", tokens), ("labels", tokens), ("length", pa.int32())]
    columns += [("source_row", pa.int64()), ("set", pa.int16())]
    if with_pairs:
        columns += [(REJECTED_IDS, tokens), (REJECTED_LABELS, tokens)]
    return pa.schema(columns + ([("prompt", pa.string())] if with_prompts else []))


def _digests(ids: Any, offsets: Any) -> Digests:
    view = memoryview(ids).cast("B")
    size = ids.itemsize
    found = [
        hashlib.blake2b(view[start * size : end * size], digest_size=8).digest()
        for start, end in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True)
    ]
    return np.frombuffer(b"".join(found), np.uint64)


def _told(counts: Mapping[str, int], rejected: Mapping[str, int]) -> dict[str, Any]:
    names = ("rows", "used", "samples", "truncated", "tokens", "tokens_trained", "tokens_cut",
             "ends_trained")  # fmt: skip
    told: dict[str, Any] = {name: int(counts.get(name, 0)) for name in names}
    told["tokens_masked"] = told["tokens"] - told["tokens_trained"]
    told["rejected"] = dict(sorted(rejected.items()))
    return told


def _refusal(refused: list[tuple[str, int]], longest: int) -> str:
    shown = ", ".join(f"{place} ({length} tokens)" for place, length in refused[:_PLACES_SHOWN])
    more = len(refused) - _PLACES_SHOWN
    return (
        f"{len(refused)} rows are longer than collator.max_length={longest}: {shown}"
        + (f" and {more} more" if more > 0 else "")
        + "; hint: collator.truncation=right, split, or drop to leave them out"
    )
