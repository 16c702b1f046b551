"""The table of `docs/resume.md` is made from weights that are equal. Run with `pytest -m slow`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

ROOT = Path(__file__).parents[2]

MODES = (
    *("full", "lora", "accumulation 4", "packed", "random order", "best kept"),
    *("sharded weights", "streaming", "lora on 8 bit", "lora on 4 bit", "two processes"),
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("mode", MODES)
def test_killed_anywhere_it_ends_with_the_same_weights(mode: str) -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "resume.py"), "--no-times", "--modes", mode],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line for line in done.stdout.splitlines() if line.startswith(f"| {mode} |")]
    assert len(rows) == (3 if mode == "streaming" else 4)
    assert all(row.endswith("| equal |") for row in rows), done.stdout


def test_the_page_has_every_mode() -> None:
    page = (ROOT / "docs" / "resume.md").read_text(encoding="utf-8")
    assert [mode for mode in MODES if f"| {mode} | in a step |" not in page] == []
    assert "DIFFERENT" not in page
