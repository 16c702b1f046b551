"""Components that stand in a run by names of the user's own: `callbacks` and `metrics`.

In: the mapping of one such key, and a function that checks one component's values. Out: a spec per
name, and findings: LF104 for what is no mapping, LF105 for a missing kind, LF103 for one that no
plugin registers.

Values are checked by `parse.py`, which calls this.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from llmforge import registry
from llmforge.diagnostics import Diagnostic, did_you_mean, near
from llmforge.origins import Origins
from llmforge.schema import Spec
from llmforge.schema.extension import NAMED
from llmforge.schema.typed import component_spec

Check = Callable[[type[Spec], str, Mapping[str, Any]], Spec | None]
"""Spec class, key, values -> the typed spec; None when it was refused."""


def parse_named(
    key: str, given: Any, origins: Origins, check: Check, found: list[Diagnostic]
) -> dict[str, Spec]:
    """The specs of `callbacks` or `metrics` by name; what is wrong is added to `found`."""
    if not isinstance(given, Mapping):
        return {}  # the check of the top level says so
    specs = {}
    for name, values in given.items():
        spec = _one(key, str(name), values, origins, check, found)
        if spec is not None:
            specs[str(name)] = spec
    return specs


def _one(
    key: str, name: str, values: Any, origins: Origins, check: Check, found: list[Diagnostic]
) -> Spec | None:
    place = f"{key}.{name}"
    known = list(registry.kinds(NAMED[key]))
    listed = f"registered are: {', '.join(known) or 'none'}"
    if not isinstance(values, Mapping):
        kind = values if isinstance(values, str) and values in known else "<kind>"
        message = f"`{place}` must be a mapping with a kind, not {_shown(values)}"
        hint = f"{key}={{{name}: {{kind: {kind}}}}}"
        found.append(Diagnostic("LF104", message, key=place, notes=(listed,), hint=f"'{hint}'"))
        return None
    spec = component_spec(key, values)
    if spec is not None:
        return check(spec, place, values)
    kind_key = f"{place}.kind"
    chain = origins.chain(kind_key) or origins.chain(place)
    if "kind" not in values:
        message = f"`{kind_key}` has no value"
        found.append(Diagnostic("LF105", message, key=kind_key, origins=chain, notes=(listed,)))
        return None
    kind = str(values["kind"])
    meant = near(kind, known, 1) or (known if len(known) == 1 else [])
    found.append(
        Diagnostic(
            "LF103",
            f"unknown kind `{kind}` of `{place}`",
            key=kind_key,
            origins=chain,
            notes=(*did_you_mean(kind, known), listed),
            hint=f"{kind_key}={meant[0]}" if meant else "plugins=[<module that registers it>]",
        )
    )
    return None


def _shown(value: Any) -> str:
    return (
        "null" if value is None else f"`{value!r:.60}`" if isinstance(value, list) else f"`{value}`"
    )
