"""The loss curve is a picture of the journal."""

from __future__ import annotations

from pathlib import Path

from llmforge.run.journal import Journal
from llmforge.track.curve import draw_curve, panels


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


def test_what_a_run_measured_is_drawn_and_nothing_else() -> None:
    history = {
        "baseline_eval_loss": {0: 7.0},
        "train_loss": {1: 6.0, 2: float("nan"), 3: 5.0},
        "eval_loss": {3: 5.5},
        "eval_held_out_loss": {3: 5.6},
        "exact_match": {3: 0.5},
        "grad_norm": {1: 2.0},
        "epoch": {1: 0.5},
    }

    found = {panel.label: panel.lines for panel in panels(history)}

    assert found == {
        "loss (nats per token)": {
            "training": {1: 6.0, 3: 5.0},
            "held-out": {0: 7.0, 3: 5.5},
            "held-out held_out": {3: 5.6},
        },
        "share": {"exact match": {3: 0.5}},
        "gradient norm": {"grad norm": {1: 2.0}},
    }
