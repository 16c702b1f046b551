"""The loss curve is a picture of the journal."""

from __future__ import annotations

from pathlib import Path

from llmforge.run.journal import Journal
from llmforge.track.curve import draw_curve


def test_a_curve_needs_two_points(tmp_path: Path) -> None:
    log = Journal(tmp_path / "metrics.jsonl")
    log.append({"train_loss": 3.0}, 1)
    assert draw_curve(tmp_path / "metrics.jsonl", tmp_path / "c.png", "run") is None
    assert not (tmp_path / "c.png").exists()


def test_losses_and_rate(tmp_path: Path) -> None:
    log = Journal(tmp_path / "metrics.jsonl")
    log.append({"baseline_eval_loss": 7.0}, 0)
    for step in range(1, 20):
        log.append({"train_loss": 7 / step, "learning_rate": 1e-3}, step)
    log.append({"train_loss": float("nan"), "eval_loss": 2.0}, 20)
    drawn = draw_curve(tmp_path / "metrics.jsonl", tmp_path / "c.png", "run")
    assert drawn
    assert drawn.read_bytes().startswith(b"\x89PNG")
