"""One run for all that is made of a finished model: an adapter that was trained, and fused then."""

from __future__ import annotations

import shutil
from contextlib import chdir
from pathlib import Path

import pytest

from llmforge.cli import main
from llmforge.run.folder import RunFolder

FUSED = ("lora=small", "optimizer.lr=0.02", "fuse.after_training=true", "fuse.probe_rows=2",
         "fuse.new_tokens=4", "fuse.probe_tokens=32", "model.hidden=32", "model.intermediate=64",
         )  # fmt: skip


@pytest.fixture(scope="session")
def fused_words() -> tuple[str, ...]:
    """What it was trained with, after `TINY`."""
    return FUSED


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a LoRA run was trained, and fused as the last part of the training."""
    from conftest import TINY  # of tests/run

    folder = tmp_path_factory.mktemp("home")
    with chdir(folder), pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING", "false")
        assert main(["train", *TINY, *FUSED]) == 0
    return folder


@pytest.fixture
def run(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """The run, in a folder of the test's own; its prepared rows are there."""
    shutil.copytree(home / "runs", tmp_path / "runs")
    shutil.copytree(home / ".llmforge", tmp_path / ".llmforge")
    monkeypatch.chdir(tmp_path)
    (found,) = (tmp_path / "runs").iterdir()
    return RunFolder.open(found)
