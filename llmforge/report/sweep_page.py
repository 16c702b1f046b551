"""The page of a sweep.

In: a sweep's folder, as `sweep/view.py` reads it. Out: HTML: leaderboard, parallel coordinates,
learning curves, importance, what was refused and what failed, the best plan with its origins, and
the commands that go on from there. May be asked while trials run: it shows what there is.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llmforge.plan import Plan, PlanUnreadable
from llmforge.report import drawing
from llmforge.report.importance import Importance, importance
from llmforge.report.page import NAME, figure, from_here, render, settings_rows, write
from llmforge.report.scales import Linear, number_of, scale_of
from llmforge.run.folder import RunFolder
from llmforge.sweep.view import SweepView, TrialView

MOST_TRIALS = 200
"""Trials in the pictures, the best of them; the leaderboard has all."""

FIGURES = ("eval_loss", "train_loss", "exact_match", "steps", "seconds")
"""Columns of the leaderboard behind the objective, where trials have them."""


@dataclass(frozen=True)
class Cell:
    """One place of the leaderboard."""

    text: str
    value: str
    """What it is sorted by; empty sorts last."""
    number: bool = False
    mono: bool = False


def write_sweep_page(folder: str | Path, target: Path | None = None) -> Path:
    """Write the page of a sweep's folder.

    Raises:
        FileNotFoundError: it is no sweep's folder.
        OSError: the page could not be written.
    """
    sweep = SweepView.read(folder)
    return write(sweep_page(sweep), target or sweep.folder / NAME)


def importance_of(sweep: SweepView) -> Importance:
    """What mattered among the finished trials."""
    known = [one for one in sweep.ranked if number_of(one.figures[sweep.objective]) is not None]
    return importance(
        [dict(one.values) for one in known], [one.figures[sweep.objective] for one in known]
    )


def sweep_page(sweep: SweepView) -> str:
    """The page as text."""
    found = importance_of(sweep)
    best = sweep.best
    plan = _plan(best)
    started = [one for one in sweep.trials if one.folder is not None]
    drawn = [*sweep.ranked, *(one for one in started if one not in sweep.ranked)][:MOST_TRIALS]
    counts = sweep.counts
    return render(
        "sweep.html.jinja",
        sweep=sweep,
        best=best,
        tiles=[(told, counts[name]) for name, told in _TILES.items() if counts.get(name)],
        columns=_columns(sweep),
        board=list(_board(sweep)),
        parallel=parallel(sweep),
        curves=curves(sweep, drawn),
        curves_shown=len(drawn),
        curves_left=len(started) - len(drawn),
        importance=found,
        importance_bars=drawing.bars("importance", found.shares),
        refused=_refusals(sweep.refused),
        failed=[one for one in sweep.trials if one.is_failed],
        commands=list(_commands(sweep)),
        settings=settings_rows(plan) if plan else [],
        fingerprint=plan.fingerprint if plan else "",
    )


def curves(sweep: SweepView, drawn: Sequence[TrialView]) -> list[Markup]:
    """Training loss and the objective over the steps, one line for each trial."""
    histories = {one.number: one.history() for one in drawn}
    wanted = ["train_loss", "eval_loss", *sweep.objectives]
    known = [
        name
        for name in dict.fromkeys(wanted)
        if any(len(found.get(name, ())) > 1 for found in histories.values())
    ]
    pictures = []
    for name in known:
        found = [
            _line(sweep, one, histories[one.number].get(name, {}), name != "train_loss")
            for one in drawn
        ]
        pictures.append(drawing.lines(name, found))
    return [picture for picture in pictures if picture]


def parallel(sweep: SweepView) -> Markup:
    """Settings and the objective side by side, one line for each finished trial."""
    shown = sweep.ranked[:MOST_TRIALS]
    varied = [key for key in sweep.keys if len({one.values.get(key) for one in shown}) > 1]
    if not shown or not varied:
        return Markup()
    axes = []
    for key in varied:
        values = {str(one.run_id): one.values[key] for one in shown if key in one.values}
        axes.append(drawing.Axis(key, scale_of(list(values.values())), values))
    for name in sweep.objectives:
        figures = {str(one.run_id): one.figures[name] for one in shown if name in one.figures}
        axes.append(drawing.Axis(name, Linear.over(figures.values()), figures))
    lines = [_line(sweep, one, {}) for one in shown]
    return drawing.parallel("settings and objective of each trial", axes, lines)


def _line(
    sweep: SweepView, trial: TrialView, points: dict[int, float], marks: bool = False
) -> drawing.Line:
    ranked = sweep.ranked
    place = ranked.index(trial) if trial in ranked else len(ranked)
    value = trial.figures.get(sweep.objective)
    told = f"{sweep.objective} {figure(value)}" if value is not None else trial.status.lower()
    return drawing.Line(
        label=f"{trial.label}\n{told}",
        points=points,
        run=str(trial.run_id),
        rank=min(1.0, place / max(1, len(ranked) - 1)),
        best=trial in sweep.front,
        marks=marks,
    )


_TILES = {
    "points": "points",
    "finished": "finished",
    "failed": "failed",
    "interrupted": "interrupted",
    "pruned": "pruned",
    "duplicate": "duplicates",
    "refused": "refused",
    "left": "not done",
}


def _figures(sweep: SweepView) -> list[str]:
    known = {name for one in sweep.trials for name in one.figures}
    return [*sweep.objectives, *(n for n in FIGURES if n in known and n not in sweep.objectives)]


def _columns(sweep: SweepView) -> list[dict[str, Any]]:
    varied = [
        {"name": key, "number": all(number_of(o.values.get(key)) is not None for o in sweep.trials)}
        for key in sweep.keys
    ]
    figures = [{"name": name, "number": True} for name in _figures(sweep)]
    rest = [{"name": name, "number": False} for name in ("status", "run")]
    return [{"name": "", "number": True}, *varied, *figures, *rest]


def _board(sweep: SweepView) -> Iterator[dict[str, Any]]:
    """Finished trials, best first, then the others."""
    numeric = {column["name"]: column["number"] for column in _columns(sweep)}
    others = [one for one in sweep.trials if one not in sweep.ranked]
    for place, trial in enumerate([*sweep.ranked, *others], start=1):
        number = str(place) if place <= len(sweep.ranked) else ""
        cells = [Cell(number, number, number=True)]
        for key in sweep.keys:
            text = trial.values.get(key, "")
            cells.append(Cell(text, text, number=bool(numeric[key]), mono=True))
        for name in _figures(sweep):
            value = trial.figures.get(name)
            cells.append(Cell(figure(value), "" if value is None else repr(value), number=True))
        status = "not started" if trial.status in ("", "CREATED") else trial.status.lower()
        cells += [Cell(status, status), Cell(str(trial.run_id), str(trial.run_id), mono=True)]
        yield {"run": str(trial.run_id), "best": trial in sweep.front, "cells": cells}


def _refusals(refused: Sequence[TrialView]) -> list[dict[str, Any]]:
    """Points that were refused for the same reasons, together; the largest group first."""
    groups: dict[tuple[str, ...], list[TrialView]] = {}
    for point in refused:
        groups.setdefault(point.reasons, []).append(point)
    found = [
        {"reasons": reasons, "codes": ", ".join(points[0].codes), "points": points}
        for reasons, points in groups.items()
    ]
    return sorted(found, key=lambda group: -len(group["points"]))


def _plan(best: TrialView | None) -> Plan | None:
    if best is None or best.folder is None:
        return None
    try:
        return RunFolder(best.folder).plan()
    except PlanUnreadable:
        return None  # of another version: the page says what it can


def _commands(sweep: SweepView) -> Iterator[tuple[str, str]]:
    again = sweep.definition.get("command")
    if again:
        yield (
            "The same sweep: finished trials are answered from their folders, the rest is run",
            f"llmforge sweep {shlex.join(again)}",
        )
    best = sweep.best
    if best is None or best.folder is None:
        return
    place = shlex.quote(from_here(best.folder))
    own = [text for text in best.overrides if not text.startswith("paths.runs=")]
    yield (
        "The best as a run of its own, with other data, more steps, ...",
        (f"llmforge train {shlex.join(own)}"),
    )
    yield "Train the best once more, and compare", f"llmforge train --run {place}"
    yield "Measure it again", f"llmforge evaluate --run {place}"
    yield "Ask it", f'llmforge generate "Your question" --run {place}'
    yield (
        "In Python",
        (f"import llmforge\nmodel, tokenizer = llmforge.load({from_here(best.folder)!r})"),
    )
