"""What a sweep is: its settings, what is fixed, what varies, what is sought.

In: overrides with several values, config dirs. Out: `Definition`, or `ConfigRefused` with every
finding. Points are not compiled here (`preflight.py`); the one plan that is looked at is the base,
for the run's name and the figures it will have.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from llmforge.compiler.parse import parse_section
from llmforge.compiler.passes import check
from llmforge.compose import compose
from llmforge.compose.library import open_library
from llmforge.compose.sweeps import MOST_POINTS, Dimension, Space, read_space, too_many
from llmforge.diagnostics import ConfigRefused, Diagnostic, refuse_on_error
from llmforge.origins import Origin, Origins
from llmforge.schema.sweep import SearchSweep, SweepSpec
from llmforge.sweep.objectives import Objective, evaluations_of, pruning_faults, resolve
from llmforge.sweep.storage import storage_faults


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
    objectives: tuple[Objective, ...]
    """What is sought, at least one figure."""
    config_dirs: tuple[str, ...]
    evaluations: int | None = None
    """Evaluations during a trial, where that is known."""
    runs: str = "runs"
    """Where the base's runs lie when they are no trials."""
    typed: tuple[str, ...] = ()
    """The overrides as they were given: for whoever wants the same sweep again."""

    @property
    def objective(self) -> str:
        """Name of the figure that is sought, of several the first."""
        return self.objectives[0].name

    @property
    def direction(self) -> str:
        """`minimize` or `maximize`, of several objectives the first one's."""
        return self.objectives[0].direction

    @property
    def is_search(self) -> bool:
        """Are points proposed one after the other?"""
        return isinstance(self.spec, SearchSweep)

    def digest(self) -> str:
        """SHA-256 of what makes two sweeps the same: what is fixed, varied and sought."""
        return _digest_of(self.fixed, self.dimensions, self.objectives, self.is_search)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as `sweep.json` keeps it."""
        return {
            "name": self.name,
            "kind": self.spec.kind,
            "fixed": list(self.fixed),
            "space": {d.key: d.text.partition("=")[2] for d in self.dimensions},
            "objective": self.objective,
            "direction": self.direction,
            "objectives": {one.name: one.direction for one in self.objectives},
            "config_dirs": list(self.config_dirs),
            "settings": self.spec.settings(),
            "digest": self.digest(),
            "command": list(self.typed),
        }


def define(overrides: Sequence[str], config_dirs: Sequence[str | Path] = ()) -> Definition:
    """Read a sweep off the command line and the `sweep` section it chooses.

    Raises:
        ConfigRefused: what is varied cannot be read or is nothing (LF710, LF711, LF112), the
            section is faulty (LF104), an interval stands in a grid (LF712), what is sought is not
            measured or has no direction (LF723, LF724), a pruner has nothing to go by (LF725).
    """
    library, found = open_library(config_dirs)
    space = read_space(overrides, {}, library)
    draft = compose(space.fixed, config_dirs)
    spec, faults = parse_section("sweep", draft.values.get("sweep"), draft.origins)
    about_sweep = [d for d in draft.diagnostics if d.is_error and _is_about_sweep(d.key or "")]
    found += [*space.diagnostics, *about_sweep, *(f for f in faults if f not in about_sweep)]
    if spec is None:
        # what is wrong with the section itself; the rest is told when it is mended
        raise ConfigRefused([d for place, d in enumerate(found) if d not in found[:place]])
    assert isinstance(spec, SweepSpec)  # noqa: S101 - what the section's registry holds
    space = read_space(overrides, spec.space, library)
    found += [d for d in space.diagnostics if d not in found]
    found += _of_space(space, spec, draft.origins)
    found += storage_faults(spec)
    if not space.dimensions:
        # no point will tell what is wrong with what is fixed
        found += [d for d in draft.diagnostics if d.is_error and d not in found]
    refuse_on_error(found)
    fixed = tuple(text for text in space.fixed if not _is_about_sweep(text))
    first = [one.override(one.values[0] if one.values else f"{one.low:.17g}")
             for one in space.dimensions]  # fmt: skip
    context = check([*fixed, *first], config_dirs).context
    best = (draft.values.get("checkpoint") or {}).get("best")
    objectives, faults = resolve(spec, best, context, draft.origins)
    refuse_on_error([*faults, *pruning_faults(spec, objectives, context, draft.origins)])
    name = spec.name
    if name == "auto":
        # a file with a space is what people call the sweep by; else it is of this run
        option = str(draft.choices.get("sweep") or "").rpartition("/")[2]
        is_file = bool(spec.space) and option != spec.kind
        label = option if is_file else str(draft.values.get("name", "sweep"))
        is_search = isinstance(spec, SearchSweep)
        digest = _digest_of(fixed, space.dimensions, objectives, is_search)
        name = f"{label}-{digest[:10]}"
    return Definition(
        spec,
        name,
        Path(spec.folder) / name,
        fixed,
        tuple(space.dimensions),
        objectives,
        tuple(str(folder) for folder in config_dirs),
        evaluations_of(context),
        str((draft.values.get("paths") or {}).get("runs", "runs")),
        tuple(overrides),
    )


def _of_space(space: Space, spec: SweepSpec, origins: Origins) -> list[Diagnostic]:
    found = [
        Diagnostic(
            "LF710",
            f"`{one.text}` varies the sweep itself, and not what it runs",
            key=one.key.lstrip("+~"),
            origins=(Origin("override", one.text),),
            notes=("two ways to sweep are two commands",),
            hint=f"{one.key}={(one.values or ('auto',))[0]}",
        )
        for one in space.dimensions
        if _is_about_sweep(one.text)
    ]
    if not space.dimensions and not space.diagnostics:
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
        if math.prod(len(one.values) or 1 for one in space.dimensions) > MOST_POINTS:
            found.append(too_many("sweep.space"))
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


def _is_about_sweep(text: str) -> bool:
    key = text.lstrip("+~").partition("=")[0].partition("@")[0]
    return key == "sweep" or key.startswith(("sweep.", "hydra.", "hydra/"))


def _any_order(fixed: Sequence[str]) -> bool:
    """Does no override say something of what another one says?"""
    keys = [text.lstrip("+~").partition("=")[0].partition("@")[0] for text in fixed]
    # sorted by their parts, a key stands right before those below it
    parts = sorted(key.replace("/", ".").split(".") for key in keys)
    return all(after[: len(before)] != before for before, after in pairwise(parts))


def _digest_of(
    fixed: Sequence[str],
    dimensions: Sequence[Dimension],
    objectives: Sequence[Objective],
    is_search: bool,
) -> str:
    """A grid may get more values, a search other ends of its intervals; both stay what they are.

    A search over other choices is another one: its study could not hold them. The order in which
    overrides were typed counts only where it changes what they say.
    """
    keys: list[Any] = sorted(one.key for one in dimensions)
    if is_search:
        keys = [[one.key, one.kind, *one.values, *sorted(one.tags)] for one in dimensions]
    sought = [text for one in objectives for text in (one.name, one.direction)]
    parts = [sorted(fixed) if _any_order(fixed) else list(fixed), keys, *sought]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
