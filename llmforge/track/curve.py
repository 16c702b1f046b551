"""The loss curve: one picture of a run.

In: the journal. Out: `curve.png` with training and held-out loss above and the learning rate
below. Matplotlib is imported here, in a worker, and draws without a display.
"""

from __future__ import annotations

from pathlib import Path

from llmforge.run import journal

INK = "#1f2933"
TRAIN, HELD_OUT, RATE = "#3b6fb6", "#c2571a", "#6b7280"


def draw_curve(journal_file: Path, target: Path, title: str) -> Path | None:
    """Draw the curve; None when there are fewer than two points of training loss."""
    history = journal.history(journal_file)
    train = {step: loss for step, loss in history.get("train_loss", {}).items() if loss == loss}
    if len(train) < 2:
        return None
    held_out = {**history.get("baseline_eval_loss", {}), **history.get("eval_loss", {})}
    rate = history.get("learning_rate", {})

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # without pyplot: its global state and its choice of a display are not wanted in a worker
    figure = Figure(figsize=(8, 5), layout="constrained")
    FigureCanvasAgg(figure)
    losses, rates = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    losses.plot(*zip(*train.items(), strict=True), color=TRAIN, label="training", linewidth=1.5)
    if held_out:
        losses.plot(
            *zip(*held_out.items(), strict=True),
            color=HELD_OUT,
            marker="o",
            markersize=4,
            label="held-out",
            linewidth=1.5,
        )
    losses.set_ylabel("loss (nats per token)")
    losses.set_title(title, loc="left", fontsize=10, color=INK)
    losses.legend(frameon=False)
    if rate:
        rates.plot(*zip(*rate.items(), strict=True), color=RATE, linewidth=1.2)
    rates.set_ylabel("learning rate", fontsize=8)
    rates.set_xlabel("optimizer step")
    rates.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes in (losses, rates):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(target, dpi=120)
    return target
