"""What a sweep is: its settings, what is fixed, what varies, what is sought.

In: overrides with several values, config dirs. Out: `Definition`, or `ConfigRefused` with every
finding. Points are not compiled here (`preflight.py`); the one plan that is looked at is the base,
for the run's name and the figures it will have.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.compiler.parse import parse_section
from llmforge.compose import compose
from llmforge.compose.library import open_library
from llmforge.compose.sweeps import Dimension, Space, read_space
from llmforge.diagnostics import ConfigRefused, Diagnostic, refuse_on_error
from llmforge.origins import Origins
from llmforge.schema.sweep import SearchSweep, SweepSpec

LOSSES = ("loss", "perplexity")
"""Endings of figures that are better when they are smaller."""


@dataclass(frozen=True)
class Definition:
    """One sweep, checked as far as it can be without compiling a point."""

    spec: SweepSpec
    name: str
    folder: Path
    """Where its trials lie."""
    fixed: tuple[str, ...]
    """Overrides that all points share."""
    dimensions: tuple[Dimension, ...]
    objective: str
    direction: str
    config_dirs: tuple[str, ...]

    @property
    def is_search(self) -> bool:
        """Are points proposed one after the other?"""
        return isinstance(self.spec, SearchSweep)

    def digest(self) -> str:
        """SHA-256 of what makes two sweeps the same: what is fixed, varied and sought."""
        return _digest(self.fixed, [d.key for d in self.dimensions], self.objective, self.direction)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as `sweep.json` keeps it."""
        return {
            "name": self.name,
            "kind": self.spec.kind,
            "fixed": list(self.fixed),
            "space": {d.key: d.text.partition("=")[2] for d in self.dimensions},
            "objective": self.objective,
            "direction": self.direction,
            "config_dirs": list(self.config_dirs),
            "settings": self.spec.settings(),
            "digest": self.digest(),
        }


def define(overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> Definition:
    """Read a sweep off the command line and the `sweep` section it chooses.

    Raises:
        ConfigRefused: what is varied cannot be read or is nothing (LF710, LF711, LF112), the
            section is faulty (LF104), an interval stands in a grid (LF712).
    """
    library, found = open_library(config_dirs)
    space = read_space(overrides, {}, library)
    draft = compose(space.fixed, config_dirs)
    spec, faults = parse_section("sweep", draft.values.get("sweep"), draft.origins)
    about_sweep = [d for d in draft.diagnostics if d.is_error and _is_about_sweep(d.key or "")]
    found += [*space.diagnostics, *about_sweep, *(f for f in faults if f not in about_sweep)]
    if spec is None:
        # what is wrong with the section itself; the rest is told when it is mended
        raise ConfigRefused(list(dict.fromkeys(found)))
    assert isinstance(spec, SweepSpec)  # noqa: S101 - what the section's registry holds
    space = read_space(overrides, spec.space, library)
    found += [d for d in space.diagnostics if d not in found]
    found += _of_space(space, spec, draft.origins)
    refuse_on_error(found)
    objective = spec.objective if spec.objective != "auto" else _objective(draft.values)
    direction = spec.direction if spec.direction != "auto" else direction_of(objective)
    fixed = tuple(text for text in space.fixed if not _is_about_sweep(text))
    keys = [d.key for d in space.dimensions]
    name = spec.name
    if name == "auto":
        label = str(draft.values.get("name", "sweep"))
        name = f"{label}-{_digest(fixed, keys, objective, direction)[:10]}"
    return Definition(
        spec,
        name,
        Path(spec.folder) / name,
        fixed,
        tuple(space.dimensions),
        objective,
        direction,
        tuple(str(folder) for folder in config_dirs),
    )


def direction_of(objective: str) -> str:
    """`minimize` for losses and perplexities, `maximize` for everything else."""
    return "minimize" if objective.endswith(LOSSES) else "maximize"


def _of_space(space: Space, spec: SweepSpec, origins: Origins) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    if not space.dimensions and not any(d.code == "LF710" for d in space.diagnostics):
        found.append(
            Diagnostic(
                "LF710",
                "the sweep varies nothing",
                key="sweep.space",
                origins=origins.chain("sweep.space"),
                notes=("a key with several values is a dimension of the sweep",),
                hint="optimizer.lr=1e-4,2e-4",
            )
        )
    if not isinstance(spec, SearchSweep):
        found += [
            Diagnostic(
                "LF712",
                f"an interval of `{one.key}` has no end of points, and this sweep tries them all",
                key=one.key.lstrip("+~"),
                notes=("a search proposes points out of intervals",),
                hint="sweep=search",
            )
            for one in space.dimensions
            if one.kind == "interval"
        ]
    return found


def _objective(values: dict[str, Any]) -> str:
    return str((values.get("checkpoint") or {}).get("best") or "eval_loss")


def _is_about_sweep(text: str) -> bool:
    key = text.lstrip("+~").partition("=")[0].partition("@")[0]
    return key == "sweep" or key.startswith(("sweep.", "hydra.", "hydra/"))


def _digest(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
