"""Training samples made while training, for rows that do not fit on the disk twice.

In: a plan with `data.streaming`, the prepared tokenizer. Out: `StreamedDataset`, which yields
samples in the order of the rows, shuffled within a buffer. Rows that are left out are noted in a
receipt on the first pass.

Under several processes the first one reads and hands batches to the others (accelerate's way with
datasets that cannot be indexed), so no row is tokenised twice.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from llmforge import registry
from llmforge.build.batches import Made, Maker, batched
from llmforge.build.data import Item
from llmforge.build.errors import DataRefused
from llmforge.build.tokenizer import open_tokenizer
from llmforge.plan import Plan

BUFFER = 10_000
"""Samples that shuffling chooses from."""

Sample = dict[str, Any]


class StreamedDataset(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """Samples of the training rows, one pass after the other."""

    def __init__(self, plan: Plan, tokenizer_folder: Path, receipt: Path) -> None:
        """`receipt` gets a line for every row that is left out or cut."""
        self._plan, self._tokenizer_folder, self._receipt = plan, tokenizer_folder, receipt
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by the Trainer before each pass."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[Sample]:
        samples = self._samples()
        if not self._plan.spec.data.shuffle:
            return samples
        return _shuffled(samples, random.Random(self._plan.spec.seed + self._epoch))  # noqa: S311 - an order, not a secret

    def _samples(self) -> Iterator[Sample]:
        kind = self._plan.spec.data.kind
        splits = registry.component("data", kind).load_builder()(self._plan)
        maker = Maker(self._plan, open_tokenizer(self._tokenizer_folder))
        worker = torch.utils.data.get_worker_info()
        batches = batched(splits.train)
        if worker is not None:
            batches = islice(batches, worker.id, None, worker.num_workers)
        for batch in batches:
            made = maker(batch, with_prompts=False)
            self._note(batch, made)
            borders = [0, *np.cumsum(made.lengths).tolist()]
            for start, end in pairwise(borders):
                yield {
                    "input_ids": made.ids[start:end],
                    "labels": made.labels[start:end],
                    "length": end - start,
                }

    def _note(self, batch: list[Item], made: Made) -> None:
        if made.too_long:
            row, tokens = made.too_long[0]
            raise DataRefused(
                f"{batch[row].place} has {tokens} tokens, collator.max_length is "
                f"{self._plan.spec.collator.max_length}; hint: collator.truncation=right"
            )
        notes = [(row, reason, detail) for row, reason, detail in made.rejected]
        notes += [(row, "cut", f"{tokens} tokens") for row, tokens in made.cut.items()]
        if not notes or self._epoch:
            return
        with self._receipt.open("a", encoding="utf-8", errors="backslashreplace") as receipt:
            for row, reason, detail in notes:
                item = batch[row]
                line = {"source": item.source, "line": item.line, "reason": reason}
                receipt.write(json.dumps(line | ({"detail": detail} if detail else {})) + "\n")


def _shuffled(samples: Iterator[Sample], chance: random.Random) -> Iterator[Sample]:
    """Each sample changes places with a random one of the buffer."""
    buffer = list(islice(samples, BUFFER))
    for sample in samples:
        place = chance.randrange(len(buffer))
        yield buffer[place]
        buffer[place] = sample
    chance.shuffle(buffer)
    yield from buffer
