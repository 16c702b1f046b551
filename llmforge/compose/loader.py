"""Compose: from overrides and config dirs to one `Draft`.

In: the overrides of a command line, the user's config dirs. Out: `Draft`: plain resolved values,
the chain of origins of each, the choices, and every fault there is to find, all in one call.
One Hydra composition when nothing is wrong; `repair.py` takes over when Hydra refuses.

It checks that the configuration holds together, not that it makes sense: types, bounds and
unknown keys in files are the schema's business. It never raises for what a user wrote.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from llmforge.compose.hydra_link import Composition, HydraLink, hydra_link
from llmforge.compose.layers import build_layers, findings, in_hydra
from llmforge.compose.library import open_library
from llmforge.compose.origins import Trace, trace
from llmforge.compose.overrides import Override, code_running_key, parse
from llmforge.compose.references import references
from llmforge.compose.repair import repair
from llmforge.compose.resolve import (
    Resolved,
    broken_interpolation,
    missing_value,
    resolve,
    without,
)
from llmforge.compose.source import Session
from llmforge.compose.tree import dotted, forbidden
from llmforge.diagnostics import Diagnostic
from llmforge.origins import Origins, leaves

_FOLLOW_UPS = ("LF101", "LF105", "LF106")
"""Findings that may only exist because a file or an option is missing from the picture."""


@dataclass(frozen=True)
class Draft:
    """What was composed. With errors among the diagnostics, `values` holds what is sound."""

    values: dict[str, Any] = field(default_factory=dict)
    """Interpolations resolved, plain Python, without the `hydra` node."""
    origins: Origins = field(default_factory=Origins)
    """A chain for every leaf of `values`."""
    choices: dict[str, str | None] = field(default_factory=dict)
    """Group -> chosen option; None where none was chosen or an optional one is not there."""
    diagnostics: tuple[Diagnostic, ...] = ()
    overrides: tuple[str, ...] = ()
    config_dirs: tuple[str, ...] = ()
    references: frozenset[str] | None = None
    """Keys that interpolations read; None where that cannot be told."""


def compose(
    overrides: Sequence[str] = (),
    config_dirs: Sequence[str | Path] = (),
    root: Path | None = None,
) -> Draft:
    """Compose the primary config with these overrides.

    `config_dirs` are searched before the shipped tree; `root` replaces that tree. Raises
    `FileNotFoundError` when there is no config tree at all, and nothing for a user's fault.
    """
    library, found = open_library(config_dirs, root)
    session = Session(library)
    parsed = parse(overrides, library)
    found += parsed.diagnostics
    given = (tuple(overrides), tuple(str(folder) for folder in config_dirs))
    with hydra_link(session) as link:
        composition, used, more, clouded = _composed(link, parsed.overrides)
        found += more
        if composition is None:
            return Draft({}, Origins(), {}, _tidy(found, clouded), *given)
        raw: Any = OmegaConf.to_container(composition.config, resolve=False)
        raw.pop("hydra", None)
        resolved = resolve(composition.config, raw)
    layers = build_layers(composition, session, used)
    traced = trace(layers, used, raw)
    found += findings(layers, session)
    clouded |= parsed.clouded | {layer.package for layer in layers if not layer.scan.usable}
    resolved.broken = [one for one in resolved.broken if not _in(one.wanted, clouded)]
    found += _about_values(raw, resolved, traced, composition, used)
    values, more = _sound(resolved, found)
    found += more
    return Draft(
        values,
        traced.origins(values),
        _choices(composition),
        _tidy(found, clouded),
        *given,
        references(raw),
    )


def _composed(
    link: HydraLink, overrides: list[Override]
) -> tuple[Composition | None, list[Override], list[Diagnostic], set[str]]:
    try:
        return link.compose(overrides), overrides, [], set()
    except Exception:  # whatever it was, the slow path finds it again and reports it
        mended = repair(link, overrides)
        return mended.composition, mended.overrides, mended.diagnostics, mended.clouded


def _about_values(
    raw: dict[str, Any],
    resolved: Resolved,
    traced: Trace,
    composition: Composition,
    overrides: Sequence[Override],
) -> list[Diagnostic]:
    """Missing values and choices, interpolations that fail, experiments that lose."""
    whole = traced.origins(raw)
    known = [key for key, _ in leaves(raw)] if raw else []
    found = [missing_value(key, whole) for key in resolved.missing]
    found += [
        Diagnostic(
            "LF105",
            f"group `{group}` needs a choice (`???`)",
            key=group.replace("/", "."),
            hint=f"{group}=<option>",
        )
        for group, option in composition.choices.items()
        if option == "???"
    ]
    found += [broken_interpolation(broken, known, whole) for broken in resolved.broken]
    if any(o.is_group and o.key == "experiment" for o in overrides):
        found += traced.losses(known)
    return found


def _sound(
    resolved: Resolved, found: Iterable[Diagnostic]
) -> tuple[dict[str, Any], list[Diagnostic]]:
    """The values without the keys at fault, and code-running keys that only resolving showed."""
    named = {d.key for d in found if d.key and d.code in ("LF106", "LF107", "LF110")}
    hidden = [path for path in forbidden(resolved.values) if dotted(path) not in named]
    values = without(resolved.values, named | {dotted(path) for path in hidden})
    return values, [code_running_key(path, ()) for path in hidden]


def _choices(composition: Composition) -> dict[str, str | None]:
    read = {file.config_path for file in composition.files}
    out: dict[str, str | None] = {}
    for group, option in sorted(composition.choices.items()):
        if not in_hydra(group.replace("/", ".")):
            there = f"{group.partition('@')[0]}/{option}" in read
            out[group] = str(option) if option is not None and there else None
    return out


def _tidy(found: Iterable[Diagnostic], clouded: Iterable[str]) -> tuple[Diagnostic, ...]:
    """Without repetitions, and without what cannot be judged while a section is not readable."""
    out: list[Diagnostic] = []
    for one in found:
        follows = one.code in _FOLLOW_UPS and _in(one.key, clouded)
        if not follows and one not in out:
            out.append(one)
    return tuple(out)


def _in(key: str | None, sections: Iterable[str]) -> bool:
    """Whether a key lies in one of these sections; the whole config is no section."""
    return key is not None and any(f"{key}.".startswith(f"{s}.") for s in sections if s)
