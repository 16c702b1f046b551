"""Settings as nested dicts, typed: which class a section has, and a whole run of them.

In: settings that were checked when they were compiled, such as those of a saved plan. Out: a
`RunSpec`, or a `ValueError` that names what does not fit this version's schema.

What a user has written is parsed by `compiler/parse.py`, which asks for the classes here and tells
every fault with its origin and a hint.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from llmforge import registry
from llmforge.schema.base import Spec
from llmforge.schema.extension import NAMED
from llmforge.schema.run import SCALARS, SECTIONS, SINGLE, RunSpec, Scalars
from llmforge.schema.sweep import APART


def section_spec(section: str, values: Mapping[str, Any]) -> type[Spec] | None:
    """Schema class for a section's values; None when its kind is unknown or missing.

    `section` may be `callbacks.<name>` or `metrics.<name>`.
    """
    key, _, name = section.partition(".")
    if name:
        return component_spec(key, values) if key in NAMED else None
    if section in SINGLE:
        return SINGLE[section]
    kind = values.get("kind")
    found = registry.kinds(section).get(kind) if isinstance(kind, str) else None
    return found.spec if found else None


def component_spec(key: str, values: Any) -> type[Spec] | None:
    """Spec class of one of `callbacks` or `metrics`; None when its kind is unknown or missing."""
    kind = values.get("kind") if isinstance(values, Mapping) else None
    known = registry.kinds(NAMED[key]).get(kind) if isinstance(kind, str) else None
    return known.spec if known else None


def validated(spec: type[Spec], given: Mapping[str, Any]) -> Spec:
    """Values as an instance of a class.

    Raises:
        pydantic.ValidationError: they are not legal.
    """
    # JSON mode: values came from YAML or JSON, so lists are lists and numbers are numbers, and
    # strict mode then refuses "8" for 8 and 1 for true.
    return spec.model_validate_json(json.dumps(given), strict=True)


def typed(settings: Mapping[str, Any]) -> RunSpec:
    """Every section of a run, typed.

    Raises:
        ValueError: they do not fit this version's schema; its text names each key.
    """
    known = (*SCALARS, *SECTIONS, *APART)
    faults = [f"{key}: unknown" for key in settings if key not in known]
    named = {key: settings[key] for key in NAMED if isinstance(settings.get(key), Mapping)}
    parts: dict[str, Any] = {key: {} for key in NAMED}
    for key, components in named.items():
        for name, given in components.items():
            parts[key][name] = _one(f"{key}.{name}", given, faults)
    for section in SECTIONS:
        parts[section] = _one(section, settings.get(section), faults)
    plain = {key: settings[key] for key in SCALARS if key in settings}
    try:
        # components were typed by classes of their own
        scalars = validated(Scalars, plain | {key: {} for key in named})
    except ValidationError as error:
        faults.extend(_told("", error))
    if faults:
        raise ValueError("; ".join(faults))
    return RunSpec.model_construct(
        **{key: getattr(scalars, key) for key in SCALARS if key not in NAMED}, **parts
    )


def _one(key: str, given: Any, faults: list[str]) -> Spec | None:
    """One section or component; what is wrong is added to `faults`."""
    spec = section_spec(key, given) if isinstance(given, Mapping) else None
    if spec is None:
        kind = given.get("kind") if isinstance(given, Mapping) else None
        faults.append(f"{key}: unknown kind `{kind}`" if kind else f"{key}: missing")
        return None
    try:
        return validated(spec, given)
    except ValidationError as error:
        faults.extend(_told(key, error))
        return None


def _told(key: str, error: ValidationError) -> Iterator[str]:
    for item in error.errors(include_url=False, include_input=False, include_context=False):
        place = ".".join((*([key] if key else ()), *map(str, item["loc"])))
        yield f"{place}: {item['msg']}"
