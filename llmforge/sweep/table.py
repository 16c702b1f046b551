"""A sweep as text: what is to be run before it starts, what came of it afterwards.

In: a definition and its points, or a swept sweep. Out: text for the terminal. Decides nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from llmforge import render
from llmforge.sweep.definition import Definition
from llmforge.sweep.preflight import Point, State
from llmforge.sweep.swept import Swept
from llmforge.sweep.trial import Trial

MOST_ROWS = 40
"""Points shown before a sweep starts; `points.jsonl` has them all."""

LONGEST_NUMBER = 12
"""Characters of a number that are shown as they are."""

LONGEST_TEXT = 48
"""Characters of a value that are shown; `points.jsonl` has it whole."""


def summary(points: Sequence[Point]) -> str:
    """`12 points · 3 finished before · 1 duplicate · 2 refused (LF204, LF209)`."""
    count = Counter(point.state for point in points)
    parts = [_many(len(points), "point")]
    if count[State.FINISHED]:
        alone = Counter(_where(point) for point in points if point.place)
        told = "".join(f"{where} {many}" for where, many in alone.items())
        parts.append(f"{count[State.FINISHED]} finished before{told}")
    if count[State.PRUNED]:
        parts.append(f"{count[State.PRUNED]} pruned before")
    if count[State.STARTED]:
        parts.append(f"{count[State.STARTED]} begun before")
    if count[State.DUPLICATE]:
        parts.append(_many(count[State.DUPLICATE], "duplicate"))
    if count[State.REFUSED]:
        codes = sorted({code for point in points for code in point.codes})
        parts.append(f"{count[State.REFUSED]} refused ({', '.join(codes)})")
    parts.append(f"{sum(point.runs for point in points):,} to run")
    return " · ".join([*parts, *_total(points)])


def _total(points: Sequence[Point]) -> list[str]:
    """Hours of all points to run, and what they rest on."""
    left = [point for point in points if point.runs]
    hours = [point.hours for point in left if point.hours is not None]
    if not hours:
        return []
    without = len(left) - len(hours)
    bases = {point.priced for point in left if point.hours is not None}
    names = {"runs": "by finished runs", "peak": "by the device's peak"}
    by = ", ".join(names[basis] for basis in sorted(bases))
    more = f", {without} unknown" if without else ""
    return [f"{hours_text(sum(hours))} one after the other ({by}{more})"]


def hours_text(hours: float) -> str:
    """`3.2 h`, or minutes or seconds where that is more telling."""
    if hours >= 1:
        return f"{hours:,.1f} h"
    return f"{hours * 60:.0f} min" if hours * 60 >= 1 else f"{max(1.0, hours * 3600):.0f} s"


def points_table(definition: Definition, points: Sequence[Point]) -> str:
    """One row per point."""
    keys = [one.key for one in definition.dimensions]
    rows = []
    timed = any(point.hours is not None for point in points)
    for point in points[:MOST_ROWS]:
        said = ", ".join(point.codes) if point.state is State.REFUSED else (point.run_id or "")
        rows.append(
            [
                str(point.number + 1),
                *(_clipped(point.values[key]) for key in keys),
                f"{point.state.value}{_where(point)}",
                said,
                "" if point.steps is None else f"{point.steps:,}",
                "" if point.memory is None else render.size_text(point.memory),
                *([_hours(point)] if timed else []),
            ]
        )
    head = ["", *keys, "state", "run", "steps", "memory", *(["time"] if timed else [])]
    text = render.table(rows, head)
    left = len(points) - MOST_ROWS
    return text if left <= 0 else f"{text}\n... and {left:,} more, in points.jsonl"


def _where(point: Point) -> str:
    """`, in runs/` for one that was finished as a run of its own."""
    return f", in {Path(point.place).parent.name}/" if point.place else ""


def _hours(point: Point) -> str:
    if point.hours is None:
        return "unknown" if point.runs else ""
    return hours_text(point.hours) if point.runs else ""


def trial_line(trial: Trial, objective: str, number: int, total: int) -> str:
    """One line when a trial is done."""
    value = trial.figures.get(objective)
    figure = f"  {objective} {value:.4f}" if isinstance(value, int | float) else ""
    why = f"  {trial.code}: {trial.reason}" if trial.is_failed else ""
    why = f"  {trial.reason}" if trial.is_pruned else why
    return f"trial {number}/{total}  {trial.run_id}  {trial.status}{figure}{why}"


def leaderboard(swept: Swept) -> str:
    """Finished trials, best first, then the others; of several objectives the front first."""
    definition = swept.definition
    keys = [one.key for one in definition.dimensions]
    front = {trial.run_id for trial in swept.front}
    several = len(definition.objectives) > 1
    ranked: list[tuple[tuple[int, float], list[str]]] = []
    shown: set[str] = set()
    for point in swept.points:
        trial = swept.trials.get(point.run_id or "")
        if trial is None or point.state is State.DUPLICATE or trial.run_id in shown:
            continue
        shown.add(trial.run_id)
        values = [trial.figures.get(one.name) if trial.is_finished else None
                  for one in definition.objectives]  # fmt: skip
        first = values[0]
        place = (2, float(point.number))
        if first is not None:
            behind = int(several and trial.run_id not in front)
            place = (behind, definition.objectives[0].sign * float(first))
        figures = ["" if value is None else f"{value:.4g}" for value in values]
        mark = ["front" if trial.run_id in front else ""] if several else []
        row = [*(short(point.values.get(k, "")) for k in keys), *figures, *mark, trial.status]
        ranked.append((place, [*row, trial.run_id]))
    ranked.sort(key=lambda pair: pair[0])
    names = [one.name for one in definition.objectives]
    head = [*keys, *names, *([""] if several else []), "status", "run"]
    return render.table([row for _, row in ranked], head)


def short(value: str) -> str:
    """A proposed number as people read it: `0.0013513800000518994` is `0.00135138`."""
    try:
        return f"{float(value):.6g}" if len(value) > LONGEST_NUMBER else value
    except ValueError:
        return _clipped(value)


def _clipped(value: str) -> str:
    return value if len(value) <= LONGEST_TEXT else f"{value[: LONGEST_TEXT - 3]}..."


def _many(number: int, thing: str) -> str:
    return f"{number:,} {thing}" if number == 1 else f"{number:,} {thing}s"
