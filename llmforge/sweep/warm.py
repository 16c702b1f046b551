"""Warm workers of a sweep: when its trials run in one resident process, and when that is refused.

In: a definition, its points, the launcher. Out: the resident worker that trials started by this
process use (`run/residents.py`), or LF745, LF746. Whether a single trial may share is decided from
its plan (`run/residency.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from llmforge.diagnostics import Diagnostic, refuse_on_error
from llmforge.run import residents
from llmforge.sweep import launchers
from llmforge.sweep.definition import Definition
from llmforge.sweep.preflight import Point

_BASIC = "basic"


def check_asked(definition: Definition, points: Iterable[Point], overrides: Sequence[str]) -> None:
    """What `sweep.resident=on` cannot have.

    Args:
        points: of the sweep, or those that a search's space was tried with.
        overrides: all that were given, Hydra's own among them.

    Raises:
        ConfigRefused: another launcher than the basic one (LF745), a trial that must have a process
            of its own (LF746).
    """
    if definition.spec.resident != "on":
        return
    launcher = launchers.chosen(overrides)
    found = [] if launcher == _BASIC else [_elsewhere(launcher)]
    refuse_on_error([*found, *_apart(points)])


def kept(definition: Definition, launcher: Any) -> AbstractContextManager[Any]:
    """Inside, trials of this process run in a resident worker, where they may.

    Args:
        launcher: `hydra.launcher` of the sweep.

    Raises:
        ConfigRefused: LF745.
    """
    target = str(launcher.get("_target_", ""))
    here = target.endswith(".BasicLauncher")
    if definition.spec.resident == "on" and not here:
        refuse_on_error([_elsewhere(target)])
    return residents.kept() if here and definition.spec.resident != "off" else nullcontext()


def _elsewhere(launcher: str) -> Diagnostic:
    return Diagnostic(
        "LF745",
        f"launcher `{launcher}` starts trials in processes of its own, which no resident worker "
        "serves",
        key="sweep.resident",
        notes=("trials share a worker one after another, on one device",),
        hint=f"{launchers.GROUP}={_BASIC}",
    )


def _apart(points: Iterable[Point]) -> list[Diagnostic]:
    """LF746, once for each reason."""
    first: dict[str, Point] = {}
    for point in points:
        if point.apart is not None:
            first.setdefault(point.apart, point)
    return [
        Diagnostic(
            "LF746",
            f"a trial cannot share a resident worker: {reason}",
            key="sweep.resident",
            notes=(
                "for example " + " ".join(f"{key}={text}" for key, text in point.values.items()),
                "with `auto` such a trial has a process of its own, and the others share",
            ),
            hint="sweep.resident=auto",
        )
        for reason, point in first.items()
    ]
