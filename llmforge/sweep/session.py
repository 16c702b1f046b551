"""One sweep from the command line to its last trial, with Hydra in the middle.

In: overrides, config dirs. Out: an exit code. `run_sweep` compiles everything, tells it, and lets
Hydra start a launcher; Hydra calls the sweeper, which finds the session here and drives it. A
program that uses our sweeper with an application of its own has no session: then one is made of
the arguments Hydra gives.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any

from llmforge import render
from llmforge.compose.sweeps import is_varied
from llmforge.diagnostics import ConfigRefused, Diagnostic, Severity, refuse_on_error
from llmforge.origins import Origin
from llmforge.sweep import launchers, searching, table, warm
from llmforge.sweep.definition import Definition, define
from llmforge.sweep.driver import drive
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.jobs import Launch
from llmforge.sweep.preflight import Point, examine, grid, refusals, same_for_all
from llmforge.sweep.search import search
from llmforge.sweep.spaces import Surveyed
from llmforge.sweep.swept import Swept
from llmforge.sweep.trial import Trial

OWN_SWEEPER = "hydra/sweeper=llmforge"
QUIET = "hydra/hydra_logging=none"

MOST_REASONS = 10
"""Why points are refused, told before a sweep starts; `points.jsonl` has them all."""


@dataclass
class Session:
    """A sweep that was compiled and is to be driven."""

    definition: Definition
    points: list[Point]
    """Of a grid."""
    space: Surveyed | None = None
    """Of a search."""
    to_run: int = 0
    """Trials that are left, at most."""
    swept: Swept | None = None
    refused: ConfigRefused | None = None
    """What ended it before its first trial, or between two: raised when Hydra is through, which
    would show it as a fault of its own."""


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
    refuse_on_error([*launchers.faults(overrides, config_dirs), *_varied(overrides)])
    session = _compiled(overrides, config_dirs)
    if dry and session.space is not None:
        return 0
    if dry:
        return 0 if any(point.runs or point.run_id for point in session.points) else 2
    token = _SESSION.set(session)
    try:
        # what is launched is told here, so Hydra's own lines on it are left out
        own = [text for text in overrides if is_hydras(text)]
        quiet = [] if any(text.startswith("hydra/hydra_logging") for text in own) else [QUIET]
        code = start([OWN_SWEEPER, *quiet, *own])
    finally:
        _SESSION.reset(token)
    if session.refused is not None:
        raise session.refused
    if session.swept is None:
        return code or 1
    return _conclude(session.swept)


def sweep_under_hydra(arguments: Sequence[str], launch: Launch, config: Any) -> list[Trial]:
    """What the sweeper does; returns the trials in the order of the points.

    Raises:
        ConfigRefused: the sweep cannot work; only without a session, which keeps it.
    """
    session = _SESSION.get()
    if session is None:
        return _driven(_compiled(arguments, ()), launch, config)
    try:
        return _driven(session, launch, config)
    except ConfigRefused as refused:
        session.refused = refused
        return []


def _driven(session: Session, launch: Launch, config: Any) -> list[Trial]:
    definition, done = session.definition, 0

    def tell(trial: Trial) -> None:
        nonlocal done
        done += 1
        render.emit(table.trial_line(trial, definition.objective, done, session.to_run))

    probed = [probe.point for probe in session.space.probes] if session.space else []
    many = launchers.at_once(definition, session.points or probed, config.hydra.launcher)
    streamed = many > 1 and launchers.is_streamed(config.hydra.launcher)
    launch = _checked(launch)
    with warm.kept(definition, config.hydra.launcher):
        if session.space is not None:
            session.swept = search(definition, session.space, launch, many, tell, streamed)
        else:
            session.swept = drive(definition, session.points, launch, many, tell, streamed)
    return list(session.swept.trials.values())


def _checked(launch: Launch) -> Launch:
    """`launch`, raising what a job raised: a trial that fails says so in its folder, so that is a
    job which never got there."""

    def launched(jobs: list[list[str]], first: int) -> Sequence[Any]:
        returned = launch(jobs, first)
        for job in returned:
            _ = job.return_value  # raises what the job raised
        return returned

    return launched


def is_hydras(override: str) -> bool:
    """Does it configure Hydra itself?"""
    key = override.lstrip("+~").partition("=")[0]
    return key == "hydra" or key.startswith(("hydra.", "hydra/"))


def _varied(overrides: Sequence[str]) -> list[Diagnostic]:
    """LF710: what configures Hydra has one value. A launcher that is none is told as such."""
    hydras = [text for text in overrides if is_hydras(text) and not text.startswith("hydra/")]
    return [
        Diagnostic(
            "LF710",
            f"`{text}` varies the sweep itself, and not what it runs",
            key=text.lstrip("+~").partition("=")[0],
            origins=(Origin("override", text),),
            notes=("two ways to sweep are two commands",),
        )
        for text in hydras
        if is_varied(text)
    ]


def _compiled(overrides: Sequence[str], config_dirs: Sequence[str]) -> Session:
    definition = define([o for o in overrides if not is_hydras(o)], config_dirs)
    SweepFolder(definition.folder).check(definition)  # before its points are compiled and told
    if definition.is_search:
        space, before = searching.prepare(definition)
        warm.check_asked(definition, (probe.point for probe in space.probes), overrides)
        render.emit(f"sweep {definition.name}: {searching.summary(definition, space, before)}")
        render.emit(searching.table(space))
        return Session(definition, [], space, searching.to_run(definition, space, before))
    if definition.spec.pruner != "none":
        refuse_on_error(searching.packages(["optuna"]))
    points = examine(definition, grid(definition))
    refuse_on_error(same_for_all(definition, points))
    warm.check_asked(definition, (point for point in points if point.runs), overrides)
    render.emit(f"sweep {definition.name}: {table.summary(points)}")
    render.emit(table.points_table(definition, points))
    refused = refusals(points)
    if refused and definition.spec.refused == "stop":
        raise ConfigRefused(refused)
    told = [replace(found, severity=Severity.WARNING, hint=None) for found in refused]
    if told:
        colour = render.wants_colour(sys.stderr)
        render.emit(render.findings_text(told[:MOST_REASONS], colour), sys.stderr)
        if len(told) > MOST_REASONS:
            render.emit(f"... and {len(told) - MOST_REASONS:,} reasons more", sys.stderr)
    return Session(definition, points, to_run=sum(point.runs for point in points))


def _conclude(swept: Swept) -> int:
    render.emit("")
    render.emit(table.leaderboard(swept))
    if swept.best is not None:
        figure = swept.best.figures[swept.definition.objective]
        render.emit(f"\nbest {swept.best.run_id}: {swept.definition.objective} {figure:.4g}")
    page = swept.definition.folder / "report.html"
    if page.is_file():
        render.emit(f"see {page}")
    found = [*swept.warnings, *([swept.stopped] if swept.stopped is not None else [])]
    if found:
        colour = render.wants_colour(sys.stderr)
        render.emit(render.findings_text(found, colour), sys.stderr)
    return swept.exit_code
