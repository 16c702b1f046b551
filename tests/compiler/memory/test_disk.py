"""How many checkpoints a run writes, and how many of them lie on the disk at once."""

from __future__ import annotations

import pytest

from llmforge.compiler.memory.disk import checkpoints_at_once, checkpoints_written


@pytest.mark.parametrize(
    ("every", "keep", "best", "written", "at_once"),
    [
        # of 10 steps; the last one is saved whatever the interval
        (4, 1, None, 3, 2),
        (5, 1, None, 2, 2),
        (10, 1, None, 1, 1),
        (4, 5, None, 3, 3),
        (1, 2, "eval_loss", 10, 4),  # the best one is kept beside the newest two
        (None, 2, None, 0, 0),
        ("epoch", 2, None, None, None),
    ],
)
def test_checkpoints_of_ten_steps(every, keep, best, written, at_once, unsolved):
    spec = unsolved(
        {"checkpoint.every": every, "checkpoint.keep": keep, "checkpoint.best": best}
    ).spec

    assert checkpoints_written(spec, 10) == written
    assert checkpoints_at_once(spec, 10) == at_once
