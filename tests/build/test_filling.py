"""Every row of an epoch counts once, however many processes share it."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch")

from accelerate.data_loader import BatchSamplerShard
from torch.utils.data import BatchSampler, SequentialSampler

from llmforge.build.filling import Blankable, FullTurns
from llmforge.build.sample import IGNORED


def turns(rows: int, processes: int, micro: int) -> list[list[list[int]]]:
    """What each process gets in each turn."""
    shards = [
        BatchSamplerShard(
            FullTurns(BatchSampler(SequentialSampler(range(rows)), micro, False), processes),
            processes,
            rank,
        )
        for rank in range(processes)
    ]
    given = [list(shard) for shard in shards]
    assert [len(shard) for shard in shards] == [len(batches) for batches in given]
    return [list(turn) for turn in zip(*given, strict=True)]


@pytest.mark.parametrize(("processes", "micro"), [(1, 4), (2, 2), (3, 1), (4, 4), (8, 2)])
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 50])
def test_every_row_once_and_every_batch_full(rows: int, processes: int, micro: int) -> None:
    found = turns(rows, processes, micro)

    batches = [batch for turn in found for batch in turn]
    assert [number for batch in batches for number in batch if number >= 0] == list(range(rows))
    assert {len(batch) for batch in batches} == {micro}
    assert len(found) == -(-rows // (micro * processes)), "no turn too many"


@pytest.mark.parametrize("rows", [23, 24, 50])
@pytest.mark.parametrize(
    ("before", "after"), [((2, 2), (1, 4)), ((1, 4), (2, 2)), ((2, 2), (4, 1))]
)
def test_the_rows_of_a_step_do_not_depend_on_the_number_of_processes(
    rows: int, before: tuple[int, int], after: tuple[int, int]
) -> None:
    """So a run can go on with another number: what is left of an epoch is what was not seen."""

    def steps(processes: int, micro: int) -> list[list[int]]:
        return [
            [number for batch in turn for number in batch if number >= 0]
            for turn in turns(rows, processes, micro)
        ]

    assert steps(*before) == steps(*after)


def test_a_row_that_fills_has_no_loss() -> None:
    rows = [
        {"input_ids": np.arange(size), "labels": np.arange(size), "source_row": size}
        for size in (3, 4)
    ]
    filled = Blankable(rows)

    blank = filled[-2]
    assert blank["labels"].tolist() == [IGNORED] * 4
    assert blank["input_ids"].tolist() == [0, 1, 2, 3]
    assert rows[1]["labels"].tolist() == [0, 1, 2, 3], "the row itself stays"
    assert [item["source_row"] for item in filled.__getitems__([0, -1, 1])] == [3, 3, 4]
