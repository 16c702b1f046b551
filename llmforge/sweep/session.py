"""One sweep from the command line to its last trial, with Hydra in the middle.

In: overrides, config dirs. Out: an exit code. `run_sweep` compiles everything, tells it, and lets
Hydra start a launcher; Hydra calls the sweeper, which finds the session here and drives it. A
program that uses our sweeper with an application of its own has no session: then one is made of
the arguments Hydra gives.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from llmforge import render
from llmforge.diagnostics import ConfigRefused, Severity
from llmforge.sweep import table
from llmforge.sweep.definition import Definition, define
from llmforge.sweep.driver import Launch, Swept, drive
from llmforge.sweep.preflight import Point, examine, grid, refusals
from llmforge.sweep.trial import Trial


@dataclass
class Session:
    """A sweep that was compiled and is to be driven."""

    definition: Definition
    points: list[Point]
    swept: Swept | None = None


_SESSION: ContextVar[Session | None] = ContextVar("llmforge_sweep_session", default=None)


def run_sweep(
    overrides: Sequence[str],
    config_dirs: Sequence[str],
    start: Callable[[list[str]], int],
    dry: bool = False,
) -> int:
    """Compile a sweep, tell what it comes to, run it.

    Args:
        start: runs the Hydra application in multirun mode with Hydra's own overrides.
        dry: stop before anything is started.

    Raises:
        ConfigRefused: the sweep itself cannot work.
    """
    session = _compiled(overrides, config_dirs)
    if dry:
        return 0 if any(point.runs or point.run_id for point in session.points) else 2
    token = _SESSION.set(session)
    try:
        code = start(["hydra/sweeper=llmforge", *(o for o in overrides if is_hydras(o))])
    finally:
        _SESSION.reset(token)
    if session.swept is None:
        return code or 1
    return _conclude(session.swept)


def sweep_under_hydra(arguments: Sequence[str], launch: Launch, config: Any) -> list[Trial]:
    """What the sweeper does; returns the trials in the order of the points."""
    session = _SESSION.get() or _compiled(arguments, ())
    total = sum(point.runs for point in session.points)
    done = 0

    def tell(trial: Trial) -> None:
        nonlocal done
        done += 1
        render.emit(table.trial_line(trial, session.definition.objective, done, total))

    at_once = session.definition.spec.at_once
    side_by_side = at_once if at_once != "auto" else side_by_side_of(config.hydra.launcher)
    session.swept = drive(session.definition, session.points, launch, int(side_by_side), tell)
    return list(session.swept.trials.values())


def side_by_side_of(launcher: Any) -> int:
    """How many jobs a launcher runs at a time, as its own settings say."""
    kind = str(launcher.get("_target_", "")).lower()
    if "joblib" in kind:
        jobs = int(launcher.get("n_jobs", 1) or 1)
        return jobs if jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + jobs)
    if "submitit" in kind:
        return int(launcher.get("array_parallelism", 256) or 256)
    if "ray" in kind:
        return max(1, os.cpu_count() or 1)
    return 1


def is_hydras(override: str) -> bool:
    """Does it configure Hydra itself?"""
    key = override.lstrip("+~").partition("=")[0]
    return key == "hydra" or key.startswith(("hydra.", "hydra/"))


def _compiled(overrides: Sequence[str], config_dirs: Sequence[str]) -> Session:
    definition = define([o for o in overrides if not is_hydras(o)], config_dirs)
    points = examine(definition, grid(definition))
    render.emit(f"sweep {definition.name}: {table.summary(points)}")
    render.emit(table.points_table(definition, points))
    refused = refusals(points)
    if refused and definition.spec.refused == "stop":
        raise ConfigRefused(refused)
    told = [replace(found, severity=Severity.WARNING, hint=None) for found in refused]
    if told:
        colour = render.wants_colour(sys.stderr)
        render.emit(render.findings_text(told, colour), sys.stderr)
    return Session(definition, points)


def _conclude(swept: Swept) -> int:
    render.emit("")
    render.emit(table.leaderboard(swept))
    if swept.best is not None:
        figure = swept.best.figures[swept.definition.objective]
        render.emit(f"\nbest {swept.best.run_id}: {swept.definition.objective} {figure:.4g}")
    if swept.stopped is not None:
        colour = render.wants_colour(sys.stderr)
        render.emit(render.findings_text([swept.stopped], colour), sys.stderr)
    return swept.exit_code
