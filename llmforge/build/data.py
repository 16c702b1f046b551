"""Rows: what the data section stands for, read in order, split into training and held-out rows.

In: a plan. Out: `Splits`, two re-iterable sources of `Row`. Files are streamed line by line and
never held in memory; which rows are held out is a seeded choice, the same on every machine.

This module does not tokenise and does not check digests: `tokenize.py` and `stages/prepare.py` do.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from llmforge.build.errors import DataRefused
from llmforge.plan import Plan
from llmforge.schema.data import BuiltinData, Fields, JsonlData

_COLUMNS = {
    "text": ("text",),
    "prompt_completion": ("prompt", "completion"),
    "messages": ("messages",),
}


class Row(NamedTuple):
    """One row, its columns renamed to the shape's own names."""

    source: str
    """File as the settings write it, or `builtin`."""
    line: int
    """1-based line of the file; for `builtin`, the conversation's number."""
    values: Mapping[str, Any]
    """`text`; `prompt` and `completion`; or `messages`, a list of {role, content}."""

    @property
    def place(self) -> str:
        return f"{self.source}:{self.line}"


@dataclass(frozen=True)
class Splits:
    """What a data builder returns. Both sides can be iterated again and again, in one order."""

    train: Iterable[Row]
    evaluation: Iterable[Row] | None


def hold_out(rows: int, fraction: float, seed: int) -> frozenset[int]:
    """Numbers of the held-out rows: the rounded share, at least one, never all.

    Chosen by a seeded permutation, so a longer training set or another seed holds out others, and
    the order of the training rows stays that of the files.
    """
    if fraction == 0 or rows < 2:
        return frozenset()
    count = min(max(1, round(rows * fraction)), rows - 1)
    # RandomState and not default_rng: its stream is frozen across versions of numpy (NEP 19)
    order = np.random.RandomState(seed % 2**32).permutation(rows)
    return frozenset(int(number) for number in order[:count])


@dataclass(frozen=True)
class JsonlRows:
    """Rows of JSON Lines files. Blank lines are no rows; everything else is one."""

    files: tuple[str, ...]
    shape: str
    fields: Fields
    without: frozenset[int] = field(default_factory=frozenset)
    """Numbers of rows left out, counted over all files from 0."""
    only: frozenset[int] | None = None
    """Numbers of the only rows taken; None takes all."""
    limit: int | None = None

    def __iter__(self) -> Iterator[Row]:
        return islice(self._all(), self.limit)

    def _all(self) -> Iterator[Row]:
        number = -1
        for name in self.files:
            # bytes and not text: only \n ends a row, while str knows a dozen line breaks
            with Path(name).open("rb") as file:
                for line, raw in enumerate(file, 1):
                    if not raw.strip():
                        continue
                    number += 1
                    taken = number not in self.without
                    if taken and (self.only is None or number in self.only):
                        yield Row(name, line, self._values(raw, name, line))

    def _values(self, raw: bytes, name: str, line: int) -> dict[str, Any]:
        try:
            found = json.loads(raw.decode("utf-8-sig" if line == 1 else "utf-8"))
        except (ValueError, RecursionError) as error:
            raise DataRefused(f"{name}:{line} is not a line of JSON: {error}") from error
        values: dict[str, Any] = {}
        for column in _COLUMNS[self.shape]:
            own = getattr(self.fields, column)
            value = found.get(own) if isinstance(found, dict) else None
            if not isinstance(value, list if column == "messages" else str):
                raise DataRefused(
                    f"{name}:{line} has no usable `{own}`: {type(value).__name__} where "
                    f"{'a list of messages' if column == 'messages' else 'text'} was expected"
                )
            values[column] = value
        return values


def jsonl_files(plan: Plan) -> Splits:
    """Builder of `data.kind=jsonl`: the files named in the settings.

    Without an evaluation file, `data.eval_fraction` of the training rows is held out first and
    `data.max_train_rows` / `data.max_eval_rows` cap what is left of either side.
    """
    spec = plan.spec.data
    assert isinstance(spec, JsonlData)  # noqa: S101 - the registry chose this builder by it
    shape = str(plan.facts["data"]["shape"])
    train = _paths(spec.train)
    if spec.evaluation is not None:
        return Splits(
            JsonlRows(train, shape, spec.fields, limit=spec.max_train_rows),
            JsonlRows(_paths(spec.evaluation), shape, spec.fields, limit=spec.max_eval_rows),
        )
    files = plan.facts["data"]["files"]
    rows = sum(int(files[name]["rows"]) for name in train)
    held = hold_out(rows, spec.eval_fraction, spec.split_seed)
    kept = JsonlRows(train, shape, spec.fields, without=held, limit=spec.max_train_rows)
    if not held:
        return Splits(kept, None)
    return Splits(kept, JsonlRows(train, shape, spec.fields, only=held, limit=spec.max_eval_rows))


def builtin_files(plan: Plan) -> Splits:
    """Builder of `data.kind=builtin`: the conversations that llmforge generates.

    The split is the generator's own: held-out questions combine known words and known phrasings
    in a way that training never shows.
    """
    from llmforge.samples.conversations import generate, split

    spec = plan.spec.data
    assert isinstance(spec, BuiltinData)  # noqa: S101 - the registry chose this builder by it
    rows = generate(spec.generator_seed, spec.rows)
    number = {id(row): index for index, row in enumerate(rows, 1)}

    def as_rows(side: Sequence[dict[str, Any]], limit: int | None) -> list[Row]:
        return [
            Row("builtin", number[id(row)], {"messages": row["messages"]}) for row in side[:limit]
        ]

    if spec.eval_fraction == 0:
        return Splits(as_rows(rows, spec.max_train_rows), None)
    train, held = split(rows, spec.generator_seed, spec.eval_fraction)
    return Splits(as_rows(train, spec.max_train_rows), as_rows(held, spec.max_eval_rows))


def _paths(value: str | list[str]) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
