"""Training samples made while training, for rows that do not fit on the disk twice.

In: a plan with `data.streaming`, the prepared tokenizer. Out: `StreamedDataset`, an endless stream
of samples: pass after pass over the rows, each in the order of the rows or shuffled within a buffer
of its own. Rows that are left out on the first pass are noted in a receipt and counted; what is
over a limit of section `data` ends the run as it would have ended preparation.

Where rows come from is `build/data.py`'s affair, what carries loss `build/tokenize.py`'s. Limits of
what is known whole (evaluation rows, the first rows) are `build/thresholds.py`'s.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
from collections.abc import Iterable, Iterator, Mapping
from itertools import count, islice, pairwise
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from llmforge import registry
from llmforge.build.batches import Made, Maker, batched
from llmforge.build.data import Item
from llmforge.build.errors import DataChanged, DataRefused
from llmforge.build.thresholds import UNTRAINED
from llmforge.build.tokenizer import open_tokenizer
from llmforge.plan import Plan
from llmforge.schema.base import allowed, share_of
from llmforge.sources.base import Row

BUFFER = 10_000
"""Samples that shuffling chooses from."""

JUDGED_FROM = 1000
"""Rows of which a share is taken at least: of the first ten, one bad row would be a tenth."""

BAD = ("bad", "template")
"""Reasons of rows that `data.max_bad_rows` counts."""

_COUNTED = ("iteration", "ended", "rows", "bad", "untrained", "tokens", "cut")
"""Of one process: which iteration its counts are of, whether its first pass is over, and losses."""

Sample = dict[str, Any]


class StreamRefused(DataRefused):
    """A limit was crossed or a row is too long; also out of a data-loader process."""

    def __init__(self, text: str) -> None:
        super().__init__(_own_words(text, type(self).__name__))


class StreamChanged(DataChanged):
    """A file cannot be read any more; also out of a data-loader process."""

    def __init__(self, text: str) -> None:
        super().__init__(_own_words(text, type(self).__name__))


def _own_words(text: str, name: str) -> str:
    """The message alone: a data loader puts its process's whole traceback in its place."""
    return text.rpartition(f"{name}: ")[2].strip() if text.startswith("Caught ") else text


class StreamedDataset(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """Samples of the training rows: `input_ids`, `labels` (arrays of int32), `length`, and `place`,
    the file and line of the row.

    The stream has no end, so that the Trainer sees one epoch of `trainer.max_steps` steps and a
    resumed run, which reads and skips what was trained on, comes to the very sample that is next,
    whatever pass that is in. Every iteration begins with the first row of the first pass.

    Several data-loader processes read all rows each and take turns in making samples of batches of
    1,000, so the order depends on how many there are; the same number gives the same order. Every
    rank goes through the whole stream and is given its samples of each batch by accelerate
    (`dispatch_batches` off), so each counts all rows and all come to the same verdict. The batch of
    all ranks is the one that a single rank would have; the work of tokenising is done on each.
    """

    def __init__(self, plan: Plan, tokenizer_folder: Path, receipt: Path) -> None:
        """`receipt` names the files that get a line for every row that is left out or cut: one for
        each data-loader process of each run, see `receipt_file`."""
        self._plan, self._tokenizer_folder, self._receipt = plan, tokenizer_folder, receipt
        workers = max(1, int(plan.spec.trainer.workers))
        # of each data-loader process what it counted; shared, so that limits hold over all of them
        self._counts = multiprocessing.Array("q", workers * len(_COUNTED))

    def receipt_file(self, worker: int = 0) -> Path:
        """The receipt of a data-loader process (0 is also the training process itself)."""
        stem, _, ending = self._receipt.name.partition(".")
        return self._receipt.with_name(f"{stem}.{self._plan.run_id}.{worker}.{ending}")

    def __iter__(self) -> Iterator[Sample]:
        """Samples without end; of no rows at all none.

        Raises:
            DataRefused: more rows or tokens are lost than section `data` lets pass, or a row is
                too long while `collator.truncation` is `refuse`.
            DataChanged: a part cannot be read any more.
        """
        worker = torch.utils.data.get_worker_info()
        own, workers = (worker.id, worker.num_workers) if worker is not None else (0, 1)
        # the same in all processes of one iteration, another in the next
        self._iteration = worker.seed - worker.id if worker is not None else 0
        maker = Maker(self._plan, open_tokenizer(self._tokenizer_folder))
        shuffle, seed = self._plan.spec.data.shuffle, self._plan.spec.seed
        try:
            for number in count():
                samples = self._pass(maker, number, own, workers)
                if shuffle:
                    samples = _shuffled(samples, random.Random(f"{seed}/{number}"))  # noqa: S311 - an order, not a secret
                first = next(samples, None)
                if first is None:  # a process whose turn never comes: there are few rows
                    return
                yield first
                yield from samples
        except DataChanged as problem:
            raise StreamChanged(str(problem)) from problem

    def _pass(self, maker: Maker, number: int, own: int, workers: int) -> Iterator[Sample]:
        """Samples of every row once; of several workers, of this one's batches of rows."""
        kind = self._plan.spec.data.kind
        splits = registry.component("data", kind).load_builder()(self._plan)
        rows = first_rows(splits.train, self._plan.spec.data.max_train_rows)
        batches = islice(batched(rows), own, None, workers)
        if number:  # what is wrong with the rows was told on the first pass
            for batch in batches:
                yield from self._samples(batch, maker(batch, with_prompts=False))
            return
        self._begin_counting(own)
        # every rank reads the same rows; one writes
        path = self.receipt_file(own) if os.environ.get("RANK", "0") == "0" else Path(os.devnull)
        with path.open("w", encoding="utf-8", errors="backslashreplace") as receipt:
            for batch in batches:
                made = maker(batch, with_prompts=False)
                self._note(receipt, batch, made)
                self._count(own, batch, made)
                yield from self._samples(batch, made)
        self._end_counting(own, workers)

    def _samples(self, batch: list[Item], made: Made) -> Iterator[Sample]:
        if made.too_long:
            row, tokens = made.too_long[0]
            raise StreamRefused(
                f"{batch[row].place} has {tokens} tokens, collator.max_length is "
                f"{self._plan.spec.collator.max_length}; hint: collator.truncation=right"
            )
        borders = [0, *np.cumsum(made.lengths).tolist()]
        for (start, end), owner in zip(pairwise(borders), map(int, made.owners), strict=True):
            yield {
                "input_ids": made.ids[start:end],
                "labels": made.labels[start:end],
                "length": end - start,
                "place": batch[owner].place,
            }

    # what is lost

    def _note(self, receipt: TextIO, batch: list[Item], made: Made) -> None:
        notes = [(row, reason, detail) for row, reason, detail in made.rejected]
        notes += [(row, "cut", f"{tokens} tokens") for row, tokens in made.cut.items()]
        for row, reason, detail in notes:
            item = batch[row]
            line = {"set": "train", "source": item.source, "line": item.line, "reason": reason}
            line |= {"detail": detail} if detail else {}
            receipt.write(json.dumps(line, ensure_ascii=False) + "\n")
        receipt.flush()  # the run may end here, and the receipt says why

    def _begin_counting(self, own: int) -> None:
        place = own * len(_COUNTED)
        with self._counts.get_lock():
            self._counts[place : place + len(_COUNTED)] = [
                self._iteration,
                *[0] * (len(_COUNTED) - 1),
            ]

    def _end_counting(self, own: int, workers: int) -> None:
        """The last process to end its first pass takes shares of all rows, however few."""
        with self._counts.get_lock():
            self._counts[own * len(_COUNTED) + _COUNTED.index("ended")] = 1
        if self._total()["ended"] == workers:
            self._check(0, {})

    def _total(self) -> dict[str, int]:
        """Over all processes of this iteration."""
        with self._counts.get_lock():
            every = self._counts[:]
        size = len(_COUNTED)
        own = [every[begin : begin + size] for begin in range(0, len(every), size)]
        counted = [each for each in own if each[0] == self._iteration]
        return dict(zip(_COUNTED, map(sum, zip(*counted, strict=True)), strict=True))

    def _count(self, own: int, batch: list[Item], made: Made) -> None:
        bad = [row for row, reason, _ in made.rejected if reason in BAD]
        untrained = [row for row, reason, _ in made.rejected if reason in UNTRAINED]
        cut = sum(made.cut.values())
        found = (len(batch), len(bad), len(untrained), len(made.ids) + cut, cut)
        with self._counts.get_lock():
            for place, more in enumerate(found, own * len(_COUNTED) + _COUNTED.index("rows")):
                self._counts[place] += more
        last = {"bad": bad, "untrained": untrained, "cut": list(made.cut)}
        self._check(JUDGED_FROM, {name: batch[rows[-1]].place for name, rows in last.items()
                                  if rows})  # fmt: skip

    def _check(self, at_least: int, last: Mapping[str, str]) -> None:
        """Raise when the processes together lost more than the settings let pass.

        Args:
            at_least: rows of which a share is taken, if fewer were read.
            last: of the batch just made, by kind of loss, the last row.
        """
        data, of = self._plan.spec.data, self._total()
        rows = max(at_least, of["rows"])
        # of few rows there are few tokens, and one long row would be a large share of them
        tokens = int(of["tokens"] * rows / max(1, of["rows"]))
        for name, what, read, whole, limit in (
            ("bad", "training rows cannot be used", of["rows"], rows, "max_bad_rows"),
            ("untrained", "training rows have no token to learn", of["rows"], rows,
             "max_untrained_rows"),
            ("cut", "tokens are cut", of["tokens"], tokens, "max_cut_tokens"),
        ):  # fmt: skip
            allowance = getattr(data, limit)
            if of[name] > allowed(allowance, whole):
                share = min(100, math.ceil(100 * of[name] / read))
                enough = share_of(allowance) is None or share > 100 * (share_of(allowance) or 0)
                place = f", the last {last[name]}" if name in last else ""
                raise StreamRefused(
                    f"{of[name]:,} of the first {read:,} {what} (data.{limit} is {allowance})"
                    f"{place}; the receipt lists each: {self.receipt_file()}; "
                    f"hint: data.{limit}={f'{share}%' if enough else 'null'}"
                )


def first_rows(items: Iterable[Item], most: int | None) -> Iterator[Item]:
    """Up to `most` rows, and what is left out among them; nothing is read behind them."""
    if most is None:
        yield from items
        return
    rows = 0
    for item in items:
        yield item
        rows += isinstance(item, Row)
        if rows >= most:
            return


def _shuffled(samples: Iterator[Sample], chance: random.Random) -> Iterator[Sample]:
    """Each sample changes places with a random one of the buffer."""
    buffer = list(islice(samples, BUFFER))
    for sample in samples:
        place = chance.randrange(len(buffer))
        yield buffer[place]
        buffer[place] = sample
    chance.shuffle(buffer)
    yield from buffer
