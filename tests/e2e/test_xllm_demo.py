"""X-LLM's demonstration project as one plugin and one file of config, run as its reader would."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
CHOSEN = ("--config-dir", "conf", "experiment=demo", "hardware=cpu", "launch.threads=1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    ignored = shutil.ignore_patterns("__pycache__", "runs", ".llmforge")
    return Path(shutil.copytree(ROOT / "examples" / "xllm_demo", tmp_path / "demo", ignore=ignored))


def llmforge(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "llmforge", *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_the_demonstration_trains(folder: Path) -> None:
    done = llmforge(folder, "train", *CHOSEN)
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = (folder / "runs").iterdir()
    result = json.loads((run / "result.json").read_text("utf-8"))
    log = (run / "log.txt").read_text("utf-8")

    assert result["eval_loss"] < result["baseline"]["eval_loss"] - 1
    assert "\n20 forward passes\n" in log
    assert "\nchecked: 40 forward passes\n" in log
    (sample,) = json.loads((run / "samples.json").read_text("utf-8"))
    assert sample["prompt"].endswith("Assistant:")
    assert sample["reference"].startswith("Together they are ")


def test_a_failing_hook_is_told_by_its_name(folder: Path) -> None:
    done = llmforge(folder, "train", *CHOSEN, "hooks.least_rows=100")

    assert done.returncode == 1
    assert "after_train_dataset_build" in done.stderr
    assert "40 samples are too few" in done.stderr


def test_a_plan_of_it_imports_no_torch(folder: Path) -> None:
    code = (
        "import sys, llmforge; sys.argv = ['x']; "
        "llmforge.compile(['experiment=demo', 'hardware=cpu'], config_dirs=['conf']); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
