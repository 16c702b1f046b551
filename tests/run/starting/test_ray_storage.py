"""What comes back from a storage is what was kept last, and what is forgotten is gone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from llmforge.run.folder import RunFolder
from llmforge.run.starting.ray_storage import fetch, forget

pytest.importorskip("pyarrow")

NAME = "example-1a2b-train"


def kept(
    storage: Path, folder: str, steps: Sequence[int], *, over: bool = False, whole: bool = True
) -> None:
    """A run folder as rank 0 sent it, with checkpoints of these steps."""
    place = storage / NAME / folder
    for step in steps:
        checkpoint = place / "checkpoints" / f"checkpoint-{step}"
        checkpoint.mkdir(parents=True)
        (checkpoint / "model.safetensors").write_text(folder, encoding="utf-8")
        if whole:
            (checkpoint / "checkpoint.json").write_text("{}", encoding="utf-8")
    place.mkdir(parents=True, exist_ok=True)
    (place / "status.json").write_text(folder, encoding="utf-8")
    if over:
        (place / "manifest.json").write_text("{}", encoding="utf-8")


def fetched(storage: str, work: Path) -> str | None:
    """Which of the folders came back."""
    run = RunFolder(work / "run")
    run.path.mkdir()
    fetch(storage, NAME, run)
    file = run.path / "status.json"
    return file.read_text(encoding="utf-8") if file.is_file() else None


@pytest.mark.parametrize("uri", [False, True])
def test_a_run_that_was_stopped_and_went_on(work: Path, uri: bool) -> None:
    kept(work / "storage", "step-6", [6])
    kept(work / "storage", "finished", [6, 8])
    kept(work / "storage", "step-12", [8, 12])

    assert fetched(f"file://{work}/storage" if uri else str(work / "storage"), work) == "step-12"
    assert (work / "run" / "checkpoints" / "checkpoint-12").is_dir()


def test_a_run_that_was_stopped_right_after_a_checkpoint(work: Path) -> None:
    kept(work / "storage", "step-6", [6])
    kept(work / "storage", "finished", [6])

    assert fetched(str(work / "storage"), work) == "finished"


def test_a_run_with_a_final_model_is_over(work: Path) -> None:
    kept(work / "storage", "step-12", [12])
    kept(work / "storage", "finished", [], over=True)

    assert fetched(str(work / "storage"), work) == "finished"


def test_a_step_that_was_not_copied_whole(work: Path) -> None:
    kept(work / "storage", "step-6", [6])
    kept(work / "storage", "step-12", [12], whole=False)

    assert fetched(str(work / "storage"), work) == "step-6"


def test_nothing_kept(work: Path) -> None:
    assert fetched(str(work / "storage"), work) is None


def test_forgotten(work: Path) -> None:
    kept(work / "storage", "finished", [6])
    forget(str(work / "storage"), NAME)
    forget(str(work / "storage"), NAME)

    assert not list((work / "storage").iterdir())
