"""A `kind` that names no component: what was meant, and an override that is then accepted.

In: a section's values and their origins. Out: one `Diagnostic`: LF103 for an unknown kind, LF105
for a missing one. A kind alone is suggested only where the other values fit it; else the shipped
option of that kind is, which brings its own.

Which keys a kind has is `parse.py`'s to check.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from llmforge import registry
from llmforge.compose import options
from llmforge.diagnostics import Diagnostic, did_you_mean, near
from llmforge.origins import Origins
from llmforge.schema.data import SOURCES


def unknown_kind(section: str, given: Mapping[str, Any], origins: Origins) -> Diagnostic:
    """LF103 for a section's kind that is not registered, LF105 for none."""
    key = f"{section}.kind"
    known = list(registry.kinds(section))
    listed = f"known kinds: {', '.join(known)}"
    if "kind" not in given:
        return Diagnostic(
            "LF105",
            f"`{key}` has no value",
            key=key,
            origins=origins.chain(section),
            notes=(listed,),
            hint=_hint(section, given, known[0])[0],
        )
    value = given["kind"]
    notes = (*did_you_mean(str(value), known), listed)
    meant = _meant(key, value, known, origins)
    hint, more = _hint(section, given, meant) if meant else (None, ())
    return Diagnostic(
        "LF103",
        f"unknown kind `{value}` of `{section}`",
        key=key,
        origins=origins.chain(key),
        notes=(*notes, *more),
        hint=hint,
    )


def unknown_source(key: str, given: Any, origins: Origins) -> Diagnostic:
    """LF103 for a source of a mix, whose kind is looked up when it is parsed."""
    kind = given.get("kind") if isinstance(given, Mapping) else None
    guess = near(str(kind), SOURCES, 1)
    return Diagnostic(
        "LF103",
        f"unknown kind `{kind}` of `{key}`" if kind else f"`{key}` has no kind",
        key=f"{key}.kind",
        origins=origins.chain(f"{key}.kind"),
        notes=(*did_you_mean(str(kind), SOURCES), f"known kinds: {', '.join(SOURCES)}"),
        hint=f"{key}.kind={guess[0]}" if guess else None,
    )


def _meant(key: str, value: Any, known: list[str], origins: Origins) -> str | None:
    """The nearest kind, else the only one, else the one that was replaced."""
    best = near(str(value), known, 1) or (known if len(known) == 1 else [])
    replaced = [origin.value for origin in origins.chain(key)[:-1] if origin.value in known]
    return next(iter([*best, *reversed(replaced)]), None)


def _hint(section: str, given: Mapping[str, Any], kind: str) -> tuple[str, tuple[str, ...]]:
    """An override that gives the section this kind and all it needs, and a note on it."""
    if _fits(section, given, kind):
        return f"{section}.kind={kind}", ()
    found = _shipped(section, kind)
    if not found:  # a kind of a plugin's: its module knows what else it needs
        return f"{section}.kind={kind}", ()
    for name in (kind, "default", *(found if len(found) == 1 else ())):
        if name in found:
            return f"{section}={name}", ()
    return f"{section}=<option>", (f"options of kind `{kind}`: {', '.join(found)}",)


def _fits(section: str, given: Mapping[str, Any], kind: str) -> bool:
    """Whether the section's other values are legal for a kind."""
    text = json.dumps({**given, "kind": kind})
    try:
        registry.kinds(section)[kind].spec.model_validate_json(text, strict=True)
    except ValidationError:
        return False
    return True


def _shipped(section: str, kind: str) -> list[str]:
    """Shipped options that name the kind in their own file."""
    says = re.compile(rf"^kind: {re.escape(kind)}$", re.MULTILINE)
    return [o.name for o in options(section) if says.search(o.path.read_text(encoding="utf-8"))]
