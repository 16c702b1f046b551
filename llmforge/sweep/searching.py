"""A search before it starts: is all there, what does its space come to, what was done before.

In: a definition. Out: the surveyed space and the study's counts, or every finding that refuses it,
and the text of both for the terminal. Nothing is proposed here, and no study is begun.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmforge import installed, render
from llmforge.diagnostics import Diagnostic, refuse_on_error
from llmforge.schema.sweep import SearchSweep
from llmforge.sweep.axes import Axis
from llmforge.sweep.definition import Definition
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.preflight import State
from llmforge.sweep.spaces import Surveyed, survey
from llmforge.sweep.storage import JOURNAL, missing
from llmforge.sweep.study import Study

NEEDS = {"cmaes": ("optuna", "cmaes"), "gp": ("optuna", "torch", "scipy")}
"""Packages of a sampler; of every other, Optuna alone."""


@dataclass(frozen=True)
class Done:
    """What earlier drivers of a search have come to."""

    counted: int = 0
    finished: int = 0
    pruned: int = 0
    failed: int = 0
    refused: int = 0
    open: int = 0
    again: int = 0
    """Of the failed ones: tried again."""


def prepare(definition: Definition) -> tuple[Surveyed, Done]:
    """Look at everything that can be looked at.

    Raises:
        ConfigRefused: a package is missing (LF722), the sampler cannot do it (LF725), the space is
            outside the schema or cannot work at all (LF720, LF721), the study of before cannot be
            used (LF726, LF727).
    """
    spec = definition.spec
    assert isinstance(spec, SearchSweep)  # noqa: S101 - `is_search` was asked
    refuse_on_error(packages(NEEDS.get(spec.sampler, ("optuna",))))
    space = survey(definition)
    refuse_on_error([*space.diagnostics, *_unfit(spec, definition, space.axes)])
    folder = SweepFolder(definition.folder)
    begun = folder.definition_file.is_file() and (
        spec.storage != "auto" or (folder.path / JOURNAL).is_file()
    )
    return space, _done(Study(definition, space.axes, folder.path)) if begun else Done()


def packages(names: Sequence[str]) -> list[Diagnostic]:
    """LF722 for the first that is not installed; none of them is imported."""
    lacking = [name for name in names if installed.installed_version(name) is None]
    return [missing(ImportError(name=lacking[0]))] if lacking else []


def summary(definition: Definition, space: Surveyed, done: Done) -> str:
    """`search by tpe over 3 keys · 20 trials · 4 before (1 pruned) · 16 to run`."""
    spec = definition.spec
    assert isinstance(spec, SearchSweep)  # noqa: S101 - `is_search` was asked
    keys = f"{len(space.axes)} key{'s' if len(space.axes) > 1 else ''}"
    sought = ", ".join(f"{one.direction} {one.name}" for one in definition.objectives)
    parts = [f"search by {spec.sampler} over {keys}", sought, f"{spec.trials} trials"]
    if spec.pruner != "none":
        parts.append(f"pruned by {spec.pruner}")
    if done.counted or done.refused:
        failed = done.failed - done.again
        told = [(done.finished, "finished"), (done.pruned, "pruned"), (failed, "failed"),
                (done.again, "to try again"), (done.open, "begun"),
                (done.refused, "refused")]  # fmt: skip
        parts.append(", ".join(f"{many} {word}" for many, word in told if many) + " before")
    parts.append(f"{to_run(definition, space, done)} to run")
    return " · ".join(parts)


def to_run(definition: Definition, space: Surveyed, done: Done) -> int:
    """Trials that are left at most."""
    spec = definition.spec
    assert isinstance(spec, SearchSweep)  # noqa: S101 - `is_search` was asked
    left = spec.trials - done.counted
    unseen = space.size - done.counted - done.refused
    return int(max(0, min(left, unseen))) + done.open + done.again


def table(space: Surveyed) -> str:
    """One row per key, then what its ends come to."""
    rows = []
    for probe in space.probes:
        point = probe.point
        fine = point.state is not State.REFUSED
        first = probe is next(p for p in space.probes if p.axis is probe.axis)
        rows.append(
            [
                probe.axis.name if first else "",
                probe.axis.words() if first and probe.axis.kind != "choice" else "",
                probe.value,
                "compiles" if fine else f"refused ({', '.join(point.codes)})",
                "" if point.steps is None else f"{point.steps:,}",
                "" if point.memory is None else render.size_text(point.memory),
            ]
        )
    return render.table(rows, ["key", "interval", "tried", "", "steps", "memory"])


def _unfit(spec: SearchSweep, definition: Definition, axes: Sequence[Axis]) -> list[Diagnostic]:
    """LF725: a sampler that cannot do what is asked of it."""
    several = len(definition.objectives) > 1
    intervals = [axis for axis in axes if axis.kind != "choice"]
    if spec.sampler == "cmaes" and several:
        why, hint = "CMA-ES seeks one figure, and several are sought", "sweep.sampler=nsga2"
    elif spec.sampler == "cmaes" and axes and not intervals:
        why = "CMA-ES moves in intervals, and the space has choices only"
        hint = "sweep.sampler=tpe"
    else:
        return []
    return [Diagnostic("LF725", why, key="sweep.sampler", hint=hint)]


def _done(study: Study) -> Done:
    found = study.counts()
    return Done(study.counted(), **found, again=len(study.worth_another()))
