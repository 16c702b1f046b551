"""Overrides on top of settings that stand: some sections may change, the others are closed.

In: the settings and origins of a plan, overrides, which sections are open. Out: the same settings
with the overrides in, and the chain of origins of each. Options chosen anew replace their section;
other overrides set single keys; what is closed is told (`closed`). Nothing is checked against a
schema here.
"""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmforge.compiler.parse import override as text_of
from llmforge.compose import compose
from llmforge.compose.overrides import Override
from llmforge.diagnostics import Diagnostic, did_you_mean
from llmforge.origins import Origin, Origins, leaves
from llmforge.plan import Plan
from llmforge.schema import SCALARS, SECTIONS

Chosen = Callable[[str], list[str]]
"""Asked for each section whose option is chosen anew: what to compose it with besides."""


def settings_of(plan: Plan) -> tuple[dict[str, Any], Origins]:
    """A plan's settings and their origins, to be changed; facts and what was lowered stay out."""
    chains = {
        key: list(chain)
        for key, chain in plan.origins.chains.items()
        if key.partition(".")[0] in (*SECTIONS, *SCALARS)
    }
    return copy.deepcopy(plan.settings), Origins(chains)


def word(key: str, value: Any) -> str:
    """An override as an argument, not quoted for a shell."""
    return shlex.split(text_of(key, value))[0]


def section_of(override: Override) -> str:
    """The section that an override is about."""
    return override.key.replace("/", ".").partition(".")[0]


def section_of_finding(finding: Diagnostic) -> str:
    """The section that a finding is about; empty for none."""
    return (finding.key or "").partition(".")[0]


def closed(override: Override, opened: Sequence[str], code: str, message: str) -> Diagnostic:
    """The finding on an override of a section that is not open.

    Args:
        opened: the sections that are.
        message: what follows the override's text.
    """
    section = section_of(override)
    known = section in (*SECTIONS, *SCALARS)
    close = () if known else did_you_mean(section, opened)
    return Diagnostic(
        code,
        f"`{override.text}` {message}",
        key=override.key,
        origins=(override.origin(),),
        notes=(*close, f"these can be changed: {', '.join(opened)}"),
        hint=f"llmforge train {shlex.quote(override.text)}" if known else None,
    )


def apply(
    values: dict[str, Any],
    origins: Origins,
    overrides: Sequence[Override],
    config_dirs: Sequence[str] = (),
    more: Chosen = lambda _section: [],
) -> list[Diagnostic]:
    """Put overrides, all of open sections, into the settings.

    Returns:
        What composing a section anew had to say of it, and errors.
    """
    found: list[Diagnostic] = []
    chosen = {one.key: one for one in overrides if one.is_group}
    for section in chosen:
        texts = [one.text for one in overrides if section_of(one) == section]
        draft = compose([*texts, *more(section)], config_dirs)
        found += [d for d in draft.diagnostics if d.is_error or section_of_finding(d) == section]
        drop(origins, section)
        values[section] = draft.values.get(section, values[section])
        for key, chain in draft.origins.chains.items():
            if key.partition(".")[0] == section:
                origins.chains[key] = list(chain)
    for one in overrides:
        if not one.is_group and section_of(one) not in chosen:
            _set(values, origins, one)
    return found


def _set(values: dict[str, Any], origins: Origins, override: Override) -> None:
    *parents, name = override.key.split(".")
    here = values
    for part in parents:
        inner = here.get(part)
        if not isinstance(inner, dict):
            inner = here[part] = {}
        here = inner
    drop(origins, override.key)
    if override.kind == "delete":
        here.pop(name, None)
        return
    here[name] = override.value
    for key, value in leaves(override.value, override.key):
        origins.add(key, replace(override.origin(), value=value))


def force(
    values: dict[str, Any], origins: Origins, settings: Mapping[str, Any], stage: str, why: str
) -> None:
    """Set what is there; a section without the key has no use for it."""
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if name in values[section]:
            values[section][name] = value
            origins.add(key, Origin("derived", stage, value, reason=why))


def drop(origins: Origins, key: str) -> None:
    """Forget who set a key and all below it."""
    for other in [k for k in origins.chains if k == key or k.startswith(f"{key}.")]:
        del origins.chains[other]
