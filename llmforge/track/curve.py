"""The curves of a run, in one picture.

In: the journal. Out: `curve.png`: training and held-out loss on top; below, as far as the run
measured them, shares of right answers, the learning rate and the gradient norm, all over the same
steps. Matplotlib is imported here, in a worker, and draws without a display.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.run import journal

INK = "#1f2933"
TRAIN, HELD_OUT, QUIET = "#3b6fb6", "#c2571a", "#6b7280"
COLOURS = (HELD_OUT, "#2f7d5b", "#7b4fa3", "#a3862f", QUIET)
_SHARES = ("accuracy", "match", "f1")
"""Ends of the names of metrics between 0 and 1."""
_MOST = 6
"""Lines of one panel; a run with more named sets shows the first of them."""

Points = Mapping[int, float]


@dataclass
class Panel:
    """One of the stacked diagrams."""

    label: str
    lines: dict[str, Points] = field(default_factory=dict)
    height: int = 1
    logarithmic: bool = False


def draw_curve(journal_file: Path, target: Path, title: str) -> Path | None:
    """Draw the curves; None when there are fewer than two points of training loss."""
    found = panels(journal.history(journal_file))
    if len(found[0].lines.get("training", ())) < 2:
        return None

    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    # without pyplot: its global state and its choice of a display are not wanted in a worker
    heights = [panel.height for panel in found]
    figure = Figure(figsize=(8, 1.6 + 0.85 * sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    stacked = figure.subplots(len(found), 1, sharex=True, height_ratios=heights, squeeze=False)
    for panel, axes in zip(found, stacked[:, 0], strict=True):
        _draw(panel, axes)
    # a name is no formula: matplotlib would read `$` in it as the start of one
    stacked[0, 0].set_title(title.replace("$", r"\$"), loc="left", fontsize=10, color=INK)
    stacked[-1, 0].set_xlabel("optimizer step")
    stacked[-1, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.align_ylabels()
    figure.savefig(target, dpi=120)
    return target


def panels(history: Mapping[str, Points]) -> list[Panel]:
    """What is drawn: the loss, then what else the run measured. Values that are no number are
    left out, and so are panels without any."""
    finite = {name: _finite(points) for name, points in history.items()}
    finite = {name: points for name, points in finite.items() if points}

    def whole(name: str) -> Points:
        """With the untrained model's value in front."""
        return {**finite.get(f"baseline_{name}", {}), **finite.get(name, {})}

    losses = Panel("loss (nats per token)", height=4)
    if "train_loss" in finite:
        losses.lines["training"] = finite["train_loss"]
    measured = [name for name in finite if not name.startswith("baseline_")]
    for name in measured:
        if name.startswith("eval") and name.endswith("_loss") and len(losses.lines) < _MOST:
            label = name.removesuffix("_loss").removeprefix("eval").strip("_")
            losses.lines[f"held-out {label}".strip()] = whole(name)
    shares = [name for name in measured if name.endswith(_SHARES)][:_MOST]
    others = (
        Panel("share", {_words(name): whole(name) for name in shares}, height=2),
        Panel("learning rate", _one(finite, "learning_rate")),
        Panel("gradient norm", _one(finite, "grad_norm"), logarithmic=True),
    )
    return [losses, *(panel for panel in others if panel.lines)]


def _finite(points: Points) -> Points:
    return {step: value for step, value in points.items() if math.isfinite(value)}


def _one(finite: Mapping[str, Points], name: str) -> dict[str, Points]:
    return {_words(name): finite[name]} if name in finite else {}


def _words(name: str) -> str:
    return name.removeprefix("eval_").replace("_", " ")


def _draw(panel: Panel, axes: Any) -> None:
    # the first colour is that of held-out figures, in every panel
    first = -1 if "training" in panel.lines else 0
    for number, (label, points) in enumerate(panel.lines.items(), first):
        single = len(panel.lines) == 1 and panel.height == 1
        colour = QUIET if single else COLOURS[number % len(COLOURS)]
        if label == "training":
            axes.plot(*zip(*points.items(), strict=True), color=TRAIN, label=label, linewidth=1.5)
            continue
        # measured now and then: each point is shown, however few there are
        marks = {} if single else {"marker": "o", "markersize": 4}
        width = 1.2 if single else 1.5
        axes.plot(
            *zip(*points.items(), strict=True), color=colour, label=label, linewidth=width, **marks
        )
    axes.set_ylabel(panel.label, fontsize=10 if panel.height > 2 else 8)
    if panel.logarithmic and all(v > 0 for line in panel.lines.values() for v in line.values()):
        axes.set_yscale("log")
    if panel.height > 1:
        axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
