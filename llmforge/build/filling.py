"""The short step at the end of an epoch, over several processes: filled without counting twice.

In: the training set and its batches, as one process would take them. Out: `WholeTurns`, the part of
a trainer whose data loader gives every process a full batch in each turn, which collective
operations need. What fills the last turn is a row that carries no loss, so each row counts once,
and several processes take the very steps that one would; the library would train on rows from the
beginning of the epoch again.

A loss that is a mean over the rows of a batch must be weighed by what the step really has, as that
of pairs is (`pair_shares.py`). Where nobody does (a trainer of one's own with a loss of its own,
models that take no count of tokens) the library's way stays, and the run says so. Streams have no
end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from inspect import signature
from typing import Any

import numpy as np
from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import IterableDataset
from transformers.trainer_pt_utils import LabelSmoother

from llmforge.build.collate import REFERENCE_LOGPS
from llmforge.build.sample import IGNORED, REJECTED_LABELS
from llmforge.build.sharding import ShardedWeights

FILLS = "fills"
"""Entry of a row that only fills a batch."""


class Blankable:
    """A data set in which a number below zero is a row without loss: -1 - i is row i."""

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        if index >= 0:
            row: Mapping[str, Any] = self._rows[index]
            return row
        row = self._rows[-1 - index]
        blank = {
            name: np.full(len(row[name]), IGNORED, dtype=np.int32)
            for name in ("labels", REJECTED_LABELS)
            if name in row
        }
        # the reference finds an answer without labels as likely as the policy does
        logps = {name: 0.0 for name in REFERENCE_LOGPS if name in row}
        return {**row, **blank, **logps, FILLS: True}

    def __getitems__(self, numbers: Sequence[int]) -> list[Mapping[str, Any]]:
        """Rows of a batch, read at once where the data set can."""
        real = [number for number in numbers if number >= 0]
        if len(real) < len(numbers) or not hasattr(self._rows, "__getitems__"):
            return [self[number] for number in numbers]
        found: list[Mapping[str, Any]] = self._rows.__getitems__(real)
        return found


class FullTurns:
    """Batches of a sampler, as many as the processes can take in whole turns, and all full."""

    def __init__(self, batches: Any, processes: int) -> None:
        self._batches, self._processes = batches, processes
        self.batch_size, self.drop_last = int(batches.batch_size), False

    @property
    def sampler(self) -> Any:
        """What orders the rows; the library looks for it to tell it the epoch."""
        return self._batches.sampler

    @sampler.setter
    def sampler(self, sampler: Any) -> None:
        self._batches.sampler = sampler

    def __len__(self) -> int:
        return -(-len(self._batches) // self._processes) * self._processes

    def __iter__(self) -> Iterator[list[int]]:
        made, blank = 0, 0
        for batch in self._batches:
            blank = -1 - batch[-1]
            yield [*batch, *[blank] * (self.batch_size - len(batch))]
            made += 1
        for _ in range(-made % self._processes):
            yield [blank] * self.batch_size


_SMOOTHS_STEPS = "num_items_in_batch" in signature(LabelSmoother.__call__).parameters


class WholeTurns(ShardedWeights):
    """A Trainer whose processes share the last rows of an epoch as one process would take them."""

    OWN_LOSS: bool
    label_smoother: Any

    def _can_fill(self) -> bool:
        """Does a row without loss leave the step as it is: is the loss a sum over tokens, divided
        by those of the whole step?"""
        if self.OWN_LOSS or not self.model_accepts_loss_kwargs:
            return False
        # the library's smoother took means over batches before it was told the tokens of the step
        return self.label_smoother is None or _SMOOTHS_STEPS

    def repeated_rows(self) -> int:
        """Rows at the beginning of an epoch that are trained on again at its end."""
        rows, world = self.train_dataset, self.args.world_size
        if world == 1 or rows is None or isinstance(rows, IterableDataset) or self._can_fill():
            return 0
        return -len(rows) % int(world * self.args.train_batch_size)

    def _get_dataloader(
        self, dataset: Any, *args: Any, sampler_fn: Any = None, is_training: bool = False, **kw: Any
    ) -> Any:
        fills = is_training and self.args.world_size > 1 and self._can_fill()
        if not fills or isinstance(dataset, IterableDataset):
            return super()._get_dataloader(
                dataset, *args, sampler_fn=sampler_fn, is_training=is_training, **kw
            )
        loader = super()._get_dataloader(
            Blankable(dataset),
            *args,
            # a sampler by length reads a column of the data set itself
            sampler_fn=sampler_fn and (lambda _: sampler_fn(dataset)),
            is_training=True,
            **kw,
        )
        shard = loader.batch_sampler
        if not isinstance(shard, BatchSamplerShard):
            raise TypeError(f"batches are shared among processes by {type(shard).__name__}")
        shard.batch_sampler = FullTurns(shard.batch_sampler, shard.num_processes)
        return loader
