"""Hydra's launchers: is the chosen one there, how many jobs does it run at a time, and where.

In: overrides, the launcher's own settings, points. Out: findings (LF730 not installed, LF731 no
such launcher), and numbers for the driver. Launches nothing; which library needs what is looked up
in package metadata, so that Hydra is not asked to compose what cannot work.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge import installed
from llmforge.diagnostics import Diagnostic, did_you_mean, near
from llmforge.origins import Origin
from llmforge.schema.sweep import SearchSweep
from llmforge.sweep.definition import Definition
from llmforge.sweep.preflight import Point, plan_of
from llmforge.sweep.sharing import most_at_once

GROUP = "hydra/launcher"

QUEUED = 256
"""Jobs that are handed to a cluster at a time, which starts them as it has room."""


@dataclass(frozen=True)
class Engine:
    """A launcher that this version was tried with."""

    package: str | None
    """What must be installed; None for Hydra's own."""
    extra: str
    """Extra of llmforge that installs it."""
    what: str
    """One line for `llmforge list hydra/launcher`."""


ENGINES = {
    "basic": Engine(None, "", "One trial after the other, started by this process."),
    "joblib": Engine(
        "hydra-joblib-launcher", "launchers", "Trials side by side on this machine (joblib, loky)."
    ),
    "submitit_local": Engine(
        "hydra-submitit-launcher", "launchers", "Trials side by side on this machine (submitit)."
    ),
    "submitit_slurm": Engine(
        "hydra-submitit-launcher", "launchers", "Each trial as a job of a Slurm cluster (submitit)."
    ),
    "llmforge_ray": Engine(
        "ray", "ray", "Trials as tasks of a Ray cluster, or of one on this machine."
    ),
}


def listed() -> list[tuple[str, str, str]]:
    """Name, what is to be installed for it, and what it is, of each launcher."""
    rows = []
    for name, engine in ENGINES.items():
        lacking = engine.package and installed.installed_version(engine.package) is None
        rows.append((name, f"llmforge[{engine.extra}]" if lacking else "", engine.what))
    return rows


def chosen(overrides: Sequence[str]) -> str:
    """The launcher that the overrides name."""
    named = [text.partition("=")[2] for text in overrides if text.partition("=")[0] == GROUP]
    return named[-1] if named else "basic"


def faults(overrides: Sequence[str], config_dirs: Sequence[str]) -> list[Diagnostic]:
    """LF730 or LF731 when the sweep could not be launched."""
    name = chosen(overrides)
    engine = ENGINES.get(name)
    origins = (Origin("override", f"{GROUP}={name}"),)
    if engine is not None:
        if engine.package is None or installed.installed_version(engine.package) is not None:
            return []
        return [
            Diagnostic(
                "LF730",
                f"launcher `{name}` needs the package {engine.package}, which is not installed",
                key=GROUP,
                origins=origins,
                notes=(f"pip install 'llmforge[{engine.extra}]'",),
                hint=f"{GROUP}=basic",
            )
        ]
    from llmforge.compose.hydra_link import registered

    known = sorted({*ENGINES, *registered(*GROUP.split("/")), *_own(config_dirs)})
    if name in known:
        return []
    return [
        Diagnostic(
            "LF731",
            f"there is no launcher `{name}`",
            key=GROUP,
            origins=origins,
            notes=did_you_mean(name, known) or (f"there are {', '.join(known)}",),
            hint=f"{GROUP}={next(iter(near(name, known)), 'basic')}",
        )
    ]


def _own(config_dirs: Sequence[str]) -> list[str]:
    return [path.stem for folder in config_dirs[:1] for path in Path(folder, GROUP).glob("*.yaml")]


def side_by_side(launcher: Any) -> int:
    """How many jobs a launcher runs at a time, as its own settings say."""
    kind = str(launcher.get("_target_", "")).lower()
    if "joblib" in kind:
        jobs = int(launcher.get("n_jobs") or 1)
        return jobs if jobs > 0 else max(1, (os.cpu_count() or 1) + 1 + jobs)
    if "submitit" in kind:
        if is_here(launcher):
            return os.cpu_count() or 1  # all of an array are started at once, whatever it says
        return int(launcher.get("array_parallelism") or QUEUED)
    if "ray" in kind:
        if not is_here(launcher):
            return QUEUED
        return max(1, int((os.cpu_count() or 1) / float(launcher.get("num_cpus") or 1)))
    return 1


def is_here(launcher: Any) -> bool:
    """Do the jobs run on this machine?"""
    kind = str(launcher.get("_target_", "")).lower()
    if "submitit" in kind:
        return "local" in kind
    if "ray" in kind:
        return not launcher.get("address")
    return True


def is_streamed(launcher: Any) -> bool:
    """Is the launcher called for each trial, so that the next one starts when one ends? So are
    those that start processes on this machine; a queue of a cluster gets batches, and the basic one
    has one trial at a time anyway."""
    kind = str(launcher.get("_target_", "")).lower()
    known = any(name in kind for name in ("joblib", "submitit", "ray"))
    return known and is_here(launcher) and side_by_side(launcher) > 1


def at_once(definition: Definition, points: Sequence[Point], launcher: Any) -> int:
    """Trials that run side by side, or are handed to a cluster at a time: as the sweep says, or
    what the launcher runs side by side and the machine takes."""
    spec, many = definition.spec, side_by_side(launcher)
    if spec.at_once != "auto":
        return min(int(spec.at_once), many) if is_streamed(launcher) else int(spec.at_once)
    if not is_here(launcher):
        if not isinstance(spec, SearchSweep):
            return QUEUED  # a cluster starts the next job when one ends
        # nothing is learnt within a batch
        return min(many, max(1, spec.population if spec.sampler == "nsga2" else spec.startup))
    first = next((point for point in points if point.runs), None)
    if many == 1 or first is None:
        return many
    memory = max((point.memory or 0 for point in points if point.runs), default=0)
    return min(many, most_at_once(plan_of(definition, first), memory or None))
