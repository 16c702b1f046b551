"""The checkpoint that is meant: by name or step, whole, or a word on what there is."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.run import checkpoints, sealing
from llmforge.run.choice import NoCheckpoint, best_step, choose_checkpoint
from llmforge.run.folder import RunFolder


@pytest.fixture
def run(tiny) -> RunFolder:
    return RunFolder.create(tiny("tracking=none"))


def write(run: RunFolder, step: int, best: int | None = None) -> Path:
    """A sealed checkpoint of some bytes."""
    folder = run.checkpoint_folder / f"{checkpoints.PREFIX}{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(bytes(range(step)))
    sealing.seal(folder, {"step": step, "best": best})
    return folder


def test_by_name_and_by_step(run):
    for step, best in ((4, 4), (8, 8), (12, 8)):
        write(run, step, best)

    assert choose_checkpoint(run, "last").step == 12
    assert choose_checkpoint(run, "best").step == 8
    assert choose_checkpoint(run, 4).step == choose_checkpoint(run, "4").step == 4


def test_a_step_that_is_not_there(run):
    write(run, 4)
    write(run, 8)

    with pytest.raises(NoCheckpoint, match="has no checkpoint of step 7") as caught:
        choose_checkpoint(run, 7)

    assert caught.value.notes == ("there are checkpoints of steps 4, 8",)
    assert caught.value.hint == "checkpoint=8"


def test_no_best_was_tracked(run):
    write(run, 4)

    with pytest.raises(NoCheckpoint, match="tracked no best") as caught:
        choose_checkpoint(run, "best")

    assert caught.value.hint == "checkpoint=last"
    assert best_step(run.checkpoint_folder) is None


def test_a_flipped_byte_is_found_and_the_one_before_is_taken(run):
    write(run, 4)
    (write(run, 8) / "weights").write_bytes(bytes(8))
    said: list[str] = []

    assert choose_checkpoint(run, "last", said.append).step == 4
    assert said == ["checkpoint at step 8 is passed over: weights is damaged"]
    with pytest.raises(NoCheckpoint, match=r"of step 8 .* is broken: weights is damaged"):
        choose_checkpoint(run, 8)


def test_none_at_all(run):
    with pytest.raises(NoCheckpoint, match="has no whole checkpoint") as caught:
        choose_checkpoint(run, "last")
    assert "the run is CREATED" in caught.value.notes

    with pytest.raises(NoCheckpoint, match="`newest` names no checkpoint"):
        choose_checkpoint(run, "newest")
