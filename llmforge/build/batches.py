"""Batches of rows to arrays of tokens, in this process or in several, in the order of the rows.

In: a stream of rows. Out: `Made`, one per batch of up to 1,000 rows: token ids and labels in one
array each, and what became of every row. Batches do not depend on the number of processes, so
neither do the samples.

What carries loss is decided in `tokenize.py`; files are written in `arrow.py`.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from llmforge import plugins
from llmforge.build.data import Item
from llmforge.build.extending import sample_builder
from llmforge.build.sample import IGNORED, Pair, Rejected, Sample, fit
from llmforge.build.templates import stop_ids
from llmforge.build.tokenize import begin
from llmforge.plan import Plan
from llmforge.sources.base import Row
from llmforge.sources.flow import Dropped

ROWS = 1000
"""Rows of a batch: large enough for the tokenizer's threads, small enough for the memory."""

_CHARACTERS = 2_000_000
"""Of a batch, and one row more."""

_LARGE = 64 * 2**20
"""Bytes of data from which starting processes pays."""

_CORES_PER_PROCESS = 2
"""While one thread masks, another encodes."""

Tokens = np.ndarray[Any, np.dtype[np.int32]]
Numbers = np.ndarray[Any, np.dtype[np.int64]]


@dataclass
class Made:
    """Samples of one batch of rows, and what became of each row."""

    ids: Tokens = field(default_factory=lambda: np.empty(0, np.int32))
    """Of all samples, one after the other."""
    labels: Tokens = field(default_factory=lambda: np.empty(0, np.int32))
    """As `ids`: the token itself where it carries loss, else -100."""
    lengths: Tokens = field(default_factory=lambda: np.empty(0, np.int32))
    """Tokens of each sample."""
    owners: Numbers = field(default_factory=lambda: np.empty(0, np.int64))
    """Of each sample, the number of its row among the rows and drops of the batch."""
    prompts: list[str] = field(default_factory=list)
    """Of each sample; empty where nobody asked for them."""
    rejected_ids: Tokens = field(default_factory=lambda: np.empty(0, np.int32))
    """As `ids`, of the worse answers of pairs; empty for other samples."""
    rejected_labels: Tokens = field(default_factory=lambda: np.empty(0, np.int32))
    """As `labels`."""
    rejected_lengths: Tokens = field(default_factory=lambda: np.empty(0, np.int32))
    """As `lengths`."""
    ends: int = 0
    """Tokens that end a turn or a text and carry loss."""
    cut: dict[int, int] = field(default_factory=dict)
    """Row -> tokens that truncation removed."""
    rejected: list[tuple[int, str, str]] = field(default_factory=list)
    """Row, reason, detail."""
    too_long: list[tuple[int, int]] = field(default_factory=list)
    """Row and tokens, where `truncation` is `refuse`."""


class Maker:
    """Makes the samples of a batch; one per process."""

    def __init__(self, plan: Plan, tokenizer: Any) -> None:
        spec = plan.spec.collator
        self._plan, self._tokenizer = plan, tokenizer
        self._build = sample_builder(plan)
        self._longest, self._truncation = int(spec.max_length), spec.truncation
        self._ends = np.asarray(stop_ids(tokenizer), dtype=np.int32)

    def __call__(self, items: list[Item], with_prompts: bool) -> Made:
        """Samples of the rows among `items`; what was dropped before stays dropped."""
        return self.begin(items, with_prompts)()

    def begin(self, items: list[Item], with_prompts: bool) -> Callable[[], Made]:
        """Have the rows' texts encoded in a thread; what is returned gives the samples.

        A caller that begins a batch before it asks for the one before keeps the tokenizer busy.
        """
        by_shape: dict[tuple[str, ...], list[int]] = {}
        for number, item in enumerate(items):
            if isinstance(item, Row):
                by_shape.setdefault(_shape(item), []).append(number)
        begun = []
        for numbers in by_shape.values():  # rows of one shape are built together
            rows = [item for item in map(items.__getitem__, numbers) if isinstance(item, Row)]
            begun.append((numbers, begin(self._build, rows, self._tokenizer, self._plan)))
        return partial(self._finish, items, begun, with_prompts)

    def _finish(self, items: list[Item], begun: Begun, with_prompts: bool) -> Made:
        owners: list[int] = []
        samples: list[Sample] = []
        made = Made()
        for number, sample in _in_order(items, begun):
            if isinstance(sample, Rejected):
                made.rejected.append((number, sample.reason, sample.detail))
                continue
            if self._truncation == "refuse" and sample.longest > self._longest:
                made.too_long.append((number, sample.longest))
                continue
            fitted = fit(sample, self._longest, self._truncation)
            if isinstance(fitted, Rejected):
                made.rejected.append((number, fitted.reason, fitted.detail))
                continue
            if cut := sample.size - sum(piece.size for piece in fitted):
                made.cut[number] = cut
            samples += fitted
            owners += [number] * len(fitted)
        if samples:
            made.ids = np.concatenate([np.asarray(s.ids, np.int32) for s in samples])
            made.labels = np.concatenate([np.asarray(s.labels, np.int32) for s in samples])
            made.ends = int(np.isin(made.labels, self._ends).sum())
        if worse := [s.rejected for s in samples if isinstance(s, Pair)]:
            made.rejected_ids = np.concatenate([s.ids for s in worse])
            made.rejected_labels = np.concatenate([s.labels for s in worse])
            made.rejected_lengths = np.fromiter((len(s.ids) for s in worse), np.int32, len(worse))
        made.lengths = np.fromiter((len(s.ids) for s in samples), np.int32, len(samples))
        made.owners = np.asarray(owners, np.int64)
        made.prompts = [s.prompt for s in samples] if with_prompts else []
        return made


Begun = list[tuple[list[int], Callable[[], list[Sample | Rejected]]]]
"""Numbers of rows of one shape, and what gives their samples."""


def _in_order(items: list[Item], begun: Begun) -> Iterator[tuple[int, Sample | Rejected]]:
    """Each row's sample, in the rows' order."""
    found: dict[int, Sample | Rejected] = {}
    for numbers, samples in begun:
        found.update(zip(numbers, samples(), strict=True))
    for number, item in enumerate(items):
        if isinstance(item, Dropped):
            yield number, Rejected(item.reason, item.fault.what if item.fault else "")
        else:
            yield number, found[number]


def _shape(row: Row) -> tuple[str, ...]:
    """The columns that tell shapes apart: tools and inputs may be missing."""
    return tuple(sorted(key for key in row.values if key not in ("tools", "input")))


def batched(items: Iterable[Item]) -> Iterator[list[Item]]:
    """Lists of at most 1,000, fewer where rows are long: encodings take memory by the token."""
    batch: list[Item] = []
    size = 0
    for item in items:
        batch.append(item)
        size += _characters(item.values) if isinstance(item, Row) else 0
        if len(batch) == ROWS or size >= _CHARACTERS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _characters(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, dict):
        value = list(value.values())
    return sum(map(_characters, value)) if isinstance(value, list) else 0


class Makers:
    """Makers in one or several processes; a context manager."""

    def __init__(self, plan: Plan, tokenizer: Any, tokenizer_folder: Path) -> None:
        """`tokenizer_folder` is where other processes load the same tokenizer from."""
        self._own = Maker(plan, tokenizer)
        self._count = worker_count(plan)
        self._pool: ProcessPoolExecutor | None = None
        self._setup = (plan.to_dict(), str(tokenizer_folder))

    def __enter__(self) -> Makers:
        if self._count > 1:
            threads = max(1, (os.cpu_count() or 1) // self._count)
            self._pool = ProcessPoolExecutor(
                self._count,
                mp_context=get_context("spawn"),
                initializer=_begin,
                initargs=(*self._setup, threads),
            )
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def made(self, items: Iterable[Item], with_prompts: bool) -> Iterator[tuple[list[Item], Made]]:
        """Every batch with its samples, in order; only a few batches are held at a time."""
        if self._pool is None:
            held: tuple[list[Item], Callable[[], Made]] | None = None
            for batch in batched(items):
                begun = self._own.begin(batch, with_prompts)
                if held is not None:
                    yield held[0], held[1]()
                held = batch, begun
            if held is not None:
                yield held[0], held[1]()
            return
        waiting: deque[tuple[list[Item], Future[Made]]] = deque()
        for batch in batched(items):
            waiting.append((batch, self._pool.submit(_make, batch, with_prompts)))
            if len(waiting) > 2 * self._count:
                done, future = waiting.popleft()
                yield done, future.result()
        while waiting:
            done, future = waiting.popleft()
            yield done, future.result()


def worker_count(plan: Plan) -> int:
    """Processes to tokenise with."""
    wanted = plan.settings["data"]["workers"]
    if isinstance(wanted, int):
        return wanted
    sources = plan.facts["data"]["sources"].values()
    size = sum(int(part["bytes"]) for source in sources for part in source["train"])
    return max(1, (os.cpu_count() or 1) // _CORES_PER_PROCESS) if size >= _LARGE else 1


_maker: Maker | None = None
"""Of a process of the pool."""


def _begin(plan: dict[str, Any], tokenizer_folder: str, threads: int) -> None:
    from llmforge.build.tokenizer import open_tokenizer

    global _maker
    os.environ |= {"RAYON_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "true"}
    made = Plan.from_dict(plan)
    plugins.load_or_fail(made.settings["plugins"])
    _maker = Maker(made, open_tokenizer(tokenizer_folder))


def _make(items: list[Item], with_prompts: bool) -> Made:
    assert _maker is not None  # noqa: S101 - the initializer ran
    return _maker(items, with_prompts)


def trained(labels: Tokens) -> int:
    """Tokens that carry loss."""
    return int((labels != IGNORED).sum())
