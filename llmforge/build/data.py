"""Rows: what the data section stands for, split into training rows and evaluation sets.

In: a plan. Out: `Splits`, re-iterable streams of `Row`. Files are read by the same readers and the
same `Flow` as when the plan was made, never held in memory; which rows are held out, repeated or
left over is a seeded choice, the same on every machine.

This module does not tokenise and does not check digests: `tokenize.py` and `stages/prepare.py` do.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmforge.build.errors import DataChanged
from llmforge.plan import Plan
from llmforge.schema.data import BuiltinPairs, BuiltinShort, GeneratedData, Rows, Source
from llmforge.sources.base import Part, Row, Unusable
from llmforge.sources.flow import Dropped, Flow, Kept
from llmforge.sources.functions import find_transform
from llmforge.sources.opening import DEFAULT_SET, reopen, set_name, sources_of

Item = Row | Dropped
"""A row to tokenise, or one that is not used and why."""


@dataclass(frozen=True)
class Splits:
    """What a data builder returns. Every stream can be iterated again and again, in one order.

    Rows left out stand in the streams as `Dropped`, each once over all of them.
    """

    train: Iterable[Item]
    evaluation: Mapping[str, Iterable[Item]]
    """By name of the evaluation set."""


def rows_of(items: Iterable[Item]) -> Iterator[Row]:
    """The rows to use."""
    return (item for item in items if isinstance(item, Row))


def hold_out(rows: int, count: int, seed: int) -> frozenset[int]:
    """`count` of the numbers below `rows`, by a seeded permutation.

    So a longer training set or another seed holds out others, and the order of the training rows
    stays that of the files.
    """
    return frozenset(int(number) for number in _permutation(rows, seed)[:count])


def _permutation(rows: int, seed: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    # RandomState and not default_rng: its stream is frozen across versions of numpy (NEP 19)
    return np.random.RandomState(seed % 2**32).permutation(rows)


@dataclass(frozen=True)
class Stream:
    """Rows of some parts of one source."""

    source: Source
    parts: tuple[Part, ...]
    shape: str
    folded: bool | None = None
    """Only rows that the fold column holds out (True) or does not (False); None takes both."""
    without: frozenset[int] = field(default_factory=frozenset)
    """Numbers of usable rows left out, counted over all parts from 0."""
    only: frozenset[int] | None = None
    """Numbers of the only rows taken; None takes all."""
    start: int = 0
    """Rows skipped of those that are left."""
    stop: int | None = None
    """Where to stop among those that are left."""
    with_dropped: bool = False
    """Also tell the rows that are not used."""

    def __iter__(self) -> Iterator[Item]:
        taken = number = -1
        for item in self._flow():
            if isinstance(item, Dropped):
                if self.with_dropped:
                    yield item
                continue
            if self.folded is not None and item.held_out is not self.folded:
                continue
            number += 1
            if number in self.without or (self.only is not None and number not in self.only):
                continue
            taken += 1
            if taken >= self.start and (self.stop is None or taken < self.stop):
                yield item.row
            elif self.stop is not None and taken >= self.stop and not self.with_dropped:
                return

    def _flow(self) -> Iterator[Kept | Dropped]:
        transform = find_transform(self.source.transform) if self.source.transform else None
        flow = Flow(self.source, self.shape, transform)
        for part in self.parts:
            try:
                yield from flow.read(part)
            except Unusable as problem:
                raise DataChanged(
                    f"{problem}; it could be read when the plan was made"
                ) from problem


@dataclass(frozen=True)
class Interleaved:
    """Rows of several streams, each spread evenly over the whole.

    The row at place k of n stands at (k + 1/2) / n; of two at the same place the first stream's
    comes first. What is not used comes along with its neighbour.
    """

    streams: Sequence[tuple[Iterable[Item], int]]
    """With the rows that each of them gives."""

    def __iter__(self) -> Iterator[Item]:
        if len(self.streams) == 1:
            yield from self.streams[0][0]
            return
        yield from (
            item for _, _, item in heapq.merge(*map(self._placed, range(len(self.streams))))
        )

    def _placed(self, index: int) -> Iterator[tuple[float, int, Item]]:
        stream, count = self.streams[index]
        seen = 0
        for item in stream:
            yield (seen + 0.5) / max(1, count), index, item
            seen += isinstance(item, Row)


@dataclass(frozen=True)
class Chained:
    """One stream after the other."""

    streams: Sequence[Iterable[Item]]

    def __iter__(self) -> Iterator[Item]:
        for stream in self.streams:
            yield from stream


def open_splits(plan: Plan) -> Splits:
    """Builder of every kind of data that has sources."""
    data = plan.spec.data
    train: list[tuple[Iterable[Item], int]] = []
    evaluation: dict[str, Iterable[Item]] = {}
    for name, source in sources_of(data).items():
        facts = plan.facts["data"]["sources"][name or "data"]
        streams, sets = _of_source(source, facts, set_name(name, None), data)
        train.append((streams, int(facts["share"]["taken"])))
        evaluation |= sets
    return Splits(Interleaved(train), evaluation)


def _of_source(
    source: Source, facts: Mapping[str, Any], default: str, data: Rows
) -> tuple[Iterable[Item], dict[str, Iterable[Item]]]:
    """A source's training rows and its evaluation sets."""
    share, shape = facts["share"], facts["shape"]
    parts = _reopened(source, facts["train"])
    rows = sum(int(part["rows"]) for part in facts["train"])
    held = hold_out(rows, share["held_out"], data.split_seed)
    folded = None if source.fold is None else False
    whole: dict[str, Stream] = {
        key: Stream(source, _reopened(source, found), shape, with_dropped=True)
        for key, found in facts["evaluation"].items()
    }
    if any(part["folded"] for part in facts["train"]):
        whole[default] = Stream(source, parts, shape, folded=True)
    elif held:
        whole[default] = Stream(source, parts, shape, folded, only=held)
    limit = data.max_eval_rows
    sets: dict[str, Iterable[Item]] = {key: _slice(s, 0, limit) for key, s in whole.items()}
    trained = Stream(source, parts, shape, folded, without=held, with_dropped=True)
    streams: list[Iterable[Item]] = [trained]
    if data.eval_surplus == "train" and limit is not None:
        streams += [_slice(s, limit, None, with_dropped=False) for s in whole.values()]
    return _take(streams, share["available"], share["taken"], data.split_seed), sets


def _take(streams: list[Iterable[Item]], available: int, taken: int, seed: int) -> Iterable[Item]:
    """`taken` rows of the `available` ones of the streams: the first, or repeated in whole passes
    and a seeded rest."""
    chained: Iterable[Item] = streams[0] if len(streams) == 1 else Chained(streams)
    if taken == available:
        return chained
    if taken < available:
        return _Some(chained, taken)
    passes, rest = divmod(taken, available)
    again = _Some(chained, None, hold_out(available, rest, seed)) if rest else None
    repeats: list[Iterable[Item]] = [chained, *[_Some(chained, None)] * (passes - 1)]
    return Chained([*repeats, *([again] if again else [])])


@dataclass(frozen=True)
class _Some:
    """The first rows of a stream, or those of certain numbers; what it drops is told only once."""

    stream: Iterable[Item]
    first: int | None
    only: frozenset[int] | None = None

    def __iter__(self) -> Iterator[Item]:
        number = -1
        for item in self.stream:
            if isinstance(item, Dropped):
                if self.first is not None:
                    yield item
                continue
            number += 1
            if self.first is not None and number >= self.first:
                continue
            if self.only is None or number in self.only:
                yield item


def _slice(
    stream: Stream, start: int, stop: int | None, with_dropped: bool | None = None
) -> Stream:
    told = stream.with_dropped if with_dropped is None else with_dropped
    return Stream(
        stream.source, stream.parts, stream.shape, stream.folded, stream.without, stream.only,
        start, stop, told,
    )  # fmt: skip


def _reopened(source: Source, facts: Iterable[Mapping[str, Any]]) -> tuple[Part, ...]:
    return tuple(reopen(source, found["name"], Path(found["file"])) for found in facts)


def builtin_splits(plan: Plan) -> Splits:
    """Builder of `data.kind=builtin`, `builtin_pairs` and `builtin_short`: conversations that
    llmforge generates.

    The split is the generator's own: held-out questions combine known words and known phrasings
    in a way that training never shows.
    """
    from llmforge.samples.conversations import generate, split
    from llmforge.samples.pairs import pair
    from llmforge.samples.short import shorten

    spec = plan.spec.data
    assert isinstance(spec, GeneratedData)  # noqa: S101 - the registry chose this builder by it
    rows = generate(spec.generator_seed, spec.rows)
    number = {id(row): index for index, row in enumerate(rows, 1)}

    def as_rows(side: Sequence[dict[str, Any]]) -> list[Item]:
        return [Row("builtin", number[id(row)], values(row)) for row in side]

    def values(row: dict[str, Any]) -> dict[str, Any]:
        if isinstance(spec, BuiltinPairs):
            return pair(row, spec.generator_seed)
        if isinstance(spec, BuiltinShort):
            return {"messages": shorten(row)}
        return {"messages": row["messages"]}

    if spec.eval_fraction == 0:
        return Splits(as_rows(rows)[: spec.max_train_rows], {})
    train, held = split(rows, spec.split_seed, spec.eval_fraction)
    surplus = held[spec.max_eval_rows :] if spec.max_eval_rows is not None else []
    more = surplus if spec.eval_surplus == "train" else []
    return Splits(
        as_rows([*train, *more])[: spec.max_train_rows],
        {DEFAULT_SET: as_rows(held[: spec.max_eval_rows])},
    )
