"""The example project, run as its reader would: from its own folder, by the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "preferences"
CHOSEN = ("--config-dir", "conf", "experiment=preferences", "hardware=cpu", "launch.threads=1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    copy = tmp_path / "preferences"
    shutil.copytree(
        EXAMPLE, copy, ignore=shutil.ignore_patterns("__pycache__", "runs", ".llmforge")
    )
    return copy


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


def result(folder: Path) -> dict[str, Any]:
    (run,) = (folder / "runs").iterdir()
    found: dict[str, Any] = json.loads((run / "result.json").read_text("utf-8"))
    return found


def log(folder: Path) -> str:
    (run,) = (folder / "runs").iterdir()
    return (run / "log.txt").read_text("utf-8")


def test_the_readme_holds_the_command() -> None:
    readme = (EXAMPLE / "README.md").read_text("utf-8")
    assert "llmforge train --config-dir conf experiment=preferences" in readme


def test_a_run(folder: Path) -> None:
    done = llmforge(folder, "train", *CHOSEN)
    assert done.returncode == 0, done.stdout + done.stderr
    found = result(folder)

    # data set and experiment: the chosen answers, with the greeting that the experiment gives
    samples = json.loads(next((folder / "runs").glob("*/samples.json")).read_text("utf-8"))
    assert samples[0]["prompt"].startswith("Good morning. How many pieces of ")
    assert samples[0]["reference"].startswith("Together they are ")

    # trainer, with its own field and the experiment's keyword
    assert "\n30 FORWARD PASSES\n" in log(folder)
    assert "\n60 FORWARD PASSES\n" in log(folder)
    assert "trained with 60 forward passes" in log(folder)

    # optimizer and experiment: it learns, and the embeddings are frozen
    assert found["eval_loss"] < found["baseline"]["eval_loss"] - 0.5
    assert found["total_parameters"] - found["trainable_parameters"] == 300 * 32

    # metrics: on logits at every evaluation and for the best checkpoint; on text at the end
    assert found["eval_accuracy"] > found["baseline"]["eval_accuracy"]
    assert 0 <= found["eval_length"] <= 4
    diary = (folder / "diary.txt").read_text("utf-8").splitlines()
    assert [line.split(":")[0] for line in diary][:4] == ["step 0", "step 20", "step 40", "step 60"]
    assert all("eval_accuracy" in line and "eval_length" not in line for line in diary)

    # the experiment's last word
    assert (folder / "watched.txt").read_text("utf-8") == "60 steps\n"

    # a later process, with nothing but the folder, knows the plugin's parts
    done = llmforge(folder, "evaluate", "--run", "last")
    assert done.returncode == 0, done.stdout + done.stderr

    # the same again is answered from the disk
    again = llmforge(folder, "train", *CHOSEN)
    assert "was finished at" in again.stdout + again.stderr


@pytest.mark.slow
def test_two_processes_measure_the_same(folder: Path) -> None:
    """Seven held-out rows over two processes: what fills up the last batch counts once."""
    more = (
        *("trainer.max_steps=1", "evaluation.every=1", "checkpoint.every=1"),
        *("data.options.held_out=7", "checkpoint.best=null"),
    )
    two = ("launch=torchrun", "launch.processes=2", "trainer.micro_batch=2")
    figures = []
    for launch in ((), two):
        shutil.rmtree(folder / "runs", ignore_errors=True)
        done = llmforge(folder, "train", *CHOSEN, *more, *launch, "evaluation.micro_batch=2")
        assert done.returncode == 0, done.stdout + done.stderr
        figures.append(result(folder)["baseline"])
    assert figures[0]["eval_tokens"] == figures[1]["eval_tokens"]
    assert figures[0]["eval_accuracy"] == figures[1]["eval_accuracy"]
    assert figures[0]["eval_loss"] == pytest.approx(figures[1]["eval_loss"], rel=1e-6)


SLIPS = (
    ("kind: last_part", "kind: last_prt", "error[LF103]: unknown kind `last_prt` of `collator`"),
    ("kind: diary\n", "kind: diry\n", "hint: callbacks.diary.kind=diary"),
    ("report_every: 30", "report_evry: 30", "error[LF101]: unknown key `report_evry`"),
    ("limit: 4.0", "limit: 0", "error[LF104]: `metrics.length.limit` is `0`"),
    ("freeze_embeddings: true", "", "error[LF105]: `hooks.freeze_embeddings` has no value"),
)
CONTRADICTION = ("best: eval_accuracy", "best: eval_length", "`eval_length` is measured on answers")


@pytest.mark.parametrize("slips", [SLIPS, [CONTRADICTION]], ids=["values", "contradiction"])
def test_slips_are_told_at_once_before_anything_starts(
    folder: Path, slips: Sequence[tuple[str, str, str]]
) -> None:
    path = folder / "conf" / "experiment" / "preferences.yaml"
    text = path.read_text("utf-8")
    for old, new, _ in slips:
        assert text.count(old) == 1
        text = text.replace(old, new)
    path.write_text(text, "utf-8")
    done = llmforge(folder, "check", *CHOSEN)
    assert done.returncode == 2
    told = done.stdout + done.stderr
    assert [said for _, _, said in slips if said not in told] == [], told
