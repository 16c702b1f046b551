"""The commands of docs/preference.md, run at a small size in the order they stand there."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "preference.md"

SMALL = (
    "data.rows=300", "trainer.epochs=null", "trainer.max_steps=4", "evaluation.exact_match_rows=2",
    "evaluation.samples=1", "tracking=none", "hardware=cpu", "trainer.global_batch=8",
)  # fmt: skip


def commands() -> list[str]:
    blocks = re.findall(r"```console\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return [line.removeprefix("$ llmforge ") for block in blocks for line in block.splitlines()]


@pytest.mark.slow
def test_the_page_runs(tmp_path: Path):
    found = commands()
    assert [line.split()[0] for line in found] == ["train", "train", "prepare", "check"]
    for line in found:
        bases = sorted(path.name for path in (tmp_path / "runs").glob("base-*"))
        words = line.replace("<run>", bases[0] if bases else "").split()
        done = subprocess.run(
            [sys.executable, "-m", "llmforge", *words, *SMALL],
            cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        if words[0] == "prepare":
            assert ", chosen" in done.stdout
            assert ", rejected" in done.stdout
    [run] = (tmp_path / "runs").glob("dpo-*/result.json")
    result = json.loads(run.read_text(encoding="utf-8"))
    assert 0 <= result["eval_rewards_accuracy"] <= 1
    assert result["eval_pairs"] > 0
    assert "exact_match" in result


def test_every_code_that_the_page_names_exists():
    from llmforge.codes import known_codes

    named = set(re.findall(r"LF\d{3}", PAGE.read_text(encoding="utf-8")))
    assert named
    assert named <= set(known_codes())
