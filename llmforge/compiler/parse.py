"""Composed values to typed specs: pydantic's errors become diagnostics with origins.

In: nested dicts and `Origins`. Out: a frozen `RunSpec`, or the full list of what is wrong with
it. Each section is checked by itself against the schema class its `kind` names, so an unknown
kind is one clear finding and never a cascade of union errors.

This module does not derive or compare values: rules and passes do.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from llmforge import registry
from llmforge.compiler.named import parse_named
from llmforge.compiler.unknown_kind import unknown_kind, unknown_source
from llmforge.diagnostics import Diagnostic, did_you_mean, near
from llmforge.origins import Origin, Origins
from llmforge.schema import APART, SCALARS, SECTIONS, SINGLE, RunSpec, Spec
from llmforge.schema.data import SOURCES
from llmforge.schema.docs import field_doc
from llmforge.schema.extension import NAMED
from llmforge.schema.run import Scalars
from llmforge.schema.typed import section_spec, validated


def parse(
    values: Mapping[str, Any], origins: Origins | None = None
) -> tuple[RunSpec | None, list[Diagnostic]]:
    """Check every section; the spec is None if any of them is refused."""
    origins = origins or Origins()
    found: list[Diagnostic] = []
    parts: dict[str, Any] = {}
    known = (*SCALARS, *SECTIONS)
    found += [_unknown(key, known, origins) for key in values if key not in (*known, *APART)]
    given_scalars = {k: values[k] for k in SCALARS if k in values}
    for key in NAMED:
        parts[key] = parse_named(
            key,
            values.get(key),
            origins,
            lambda spec, place, given: _check(spec, place, given, origins, found),
            found,
        )
        if isinstance(values.get(key), Mapping):
            given_scalars[key] = {}  # what stands in it was checked by its own spec
    scalars = _check(Scalars, "", given_scalars, origins, found)
    for section in SECTIONS:
        given = values.get(section)
        if not isinstance(given, Mapping):
            found.append(_not_a_mapping(section, given, section in values, origins))
            continue
        spec = section_spec(section, given)
        if spec is None:
            found.append(unknown_kind(section, given, origins))
            continue
        parts[section] = _check(spec, section, given, origins, found)
    if found or scalars is None:
        return None, found
    plain = {k: getattr(scalars, k) for k in SCALARS if k not in NAMED}
    return RunSpec.model_construct(**plain, **parts), []


def parse_section(
    section: str, given: Any, origins: Origins | None = None
) -> tuple[Spec | None, list[Diagnostic]]:
    """Check one section by itself; the spec is None if it is refused.

    The way in for `sweep`, which is about runs and part of none.
    """
    origins = origins or Origins()
    if not isinstance(given, Mapping):
        return None, [_not_a_mapping(section, given, given is not None, origins)]
    spec = section_spec(section, given)
    if spec is None:
        return None, [unknown_kind(section, given, origins)]
    found: list[Diagnostic] = []
    return _check(spec, section, given, origins, found), found


def _not_a_mapping(section: str, given: Any, section_given: bool, origins: Origins) -> Diagnostic:
    return Diagnostic(
        "LF104" if section_given else "LF105",
        f"section `{section}` must be a mapping, not {_shown(given)}"
        if section_given
        else f"section `{section}` is missing",
        key=section,
        origins=origins.chain(section),
        hint=_usual_option(section),
    )


def _check(
    spec: type[Spec],
    section: str,
    given: Mapping[str, Any],
    origins: Origins,
    found: list[Diagnostic],
) -> Spec | None:
    try:
        return validated(spec, given)
    except ValidationError as error:
        found.extend(_explain(error, spec, section, given, origins))
        return None


def _explain(
    error: ValidationError,
    spec: type[Spec],
    section: str,
    given: Mapping[str, Any],
    origins: Origins,
) -> list[Diagnostic]:
    """One diagnostic per faulty key; the branches of a union are told as one."""
    by_key: dict[str, list[ErrorDetails]] = {}
    for item in error.errors(include_url=False):
        path = _path_within(item["loc"], given)
        key = ".".join((section, *path) if section else path)
        by_key.setdefault(key, []).append(item)
    return [_one(key, items, spec, section, given, origins) for key, items in by_key.items()]


def _path_within(loc: tuple[int | str, ...], given: Any) -> tuple[str, ...]:
    """The part of pydantic's location that names real keys: union tags are left out."""
    path: list[str] = []
    here = given
    for index, part in enumerate(loc):
        if not isinstance(here, Mapping):
            break
        if part in here:
            path.append(str(part))
            here = here[part]
        elif index == len(loc) - 1 and "[" not in str(part):
            path.append(str(part))  # what is missing
    return tuple(path)


def _one(
    key: str,
    items: list[ErrorDetails],
    spec: type[Spec],
    section: str,
    given: Mapping[str, Any],
    origins: Origins,
) -> Diagnostic:
    kind = items[0]["type"]
    chain = origins.chain(key) or _chain_below(key, origins)
    if kind == "extra_forbidden":
        return _unknown(key, _siblings(spec, section, key, given), origins)
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return unknown_source(key, items[0]["input"], origins)
    if kind == "missing":
        return Diagnostic(
            "LF105", f"`{key}` has no value", key=key, origins=chain, hint=f"{key}=<value>"
        )
    value = items[0]["input"]
    if any("secret given as a plain value" in item["msg"] for item in items):
        return Diagnostic(
            "LF114",
            f"`{key}` holds a secret as a plain value; it would be written into plans and logs",
            key=key,
            notes=("name the environment variable that holds it instead",),
            hint=f"{key}=env:{_env_name(key)}",
        )
    expected, choices = _expectation(items)
    notes = did_you_mean(str(value), choices) if isinstance(value, str) else ()
    if kind == "string_pattern_mismatch":
        notes = (field_doc(spec, key.removeprefix(f"{section}.").split(".")), *notes)
    return Diagnostic(
        "LF104",
        f"`{key}` is {_shown(value)}; expected {expected}",
        key=key,
        origins=chain,
        notes=notes,
        hint=_better(key, value, choices, chain),
    )


def _better(key: str, value: Any, choices: list[str], chain: tuple[Origin, ...]) -> str | None:
    """The choice that was meant, else the value that was replaced, else the only choice."""
    guess = near(str(value), choices, 1)
    if guess:
        return override(key, guess[0])
    if len(chain) > 1 and chain[-2].value not in ("???", value):
        return override(key, chain[-2].value)
    return override(key, choices[0]) if len(choices) == 1 else None


def _chain_below(key: str, origins: Origins) -> tuple[Origin, ...]:
    """Where a value was meant and a mapping stands, the origins stand below the key."""
    return next((tuple(c) for k, c in origins.chains.items() if k.startswith(f"{key}.")), ())


def _expectation(items: list[ErrorDetails]) -> tuple[str, list[str]]:
    """What would have been legal, in words, and the literal choices among it."""
    told: list[str] = []
    choices: list[str] = []
    for item in items:
        context = item.get("ctx") or {}
        kind = item["type"]
        if kind == "literal_error":
            choices += [part.strip("' ") for part in _split_choices(str(context["expected"]))]
        elif kind == "value_error":
            told.append(str(context["error"]).removeprefix("expected "))
        elif kind in _BOUNDS:
            limit = context[_LIMIT[kind]]
            what = "a whole number" if isinstance(limit, int) else "a number"
            told.append(f"{what} {_BOUNDS[kind]} {limit:{'d' if isinstance(limit, int) else 'g'}}")
        elif kind == "too_short":
            told.append(f"a list of at least {context['min_length']}")
        elif kind == "too_long":
            told.append(f"a list of at most {context['max_length']}")
        elif kind == "string_pattern_mismatch":
            told.append(f"text matching `{context['pattern']}`")
        else:
            told.append(_TYPES.get(kind, item["msg"][0].lower() + item["msg"][1:]))
    words = list(dict.fromkeys([*told, *(f"`{choice}`" for choice in choices)]))
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words), choices


_BOUNDS = {
    "greater_than": "above",
    "greater_than_equal": "from",
    "less_than": "below",
    "less_than_equal": "up to",
}
_LIMIT = {
    "greater_than": "gt",
    "greater_than_equal": "ge",
    "less_than": "lt",
    "less_than_equal": "le",
}
_TYPES = {
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_type": "text",
    "bool_type": "true or false",
    "list_type": "a list",
    "none_required": "null",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}


def _split_choices(expected: str) -> list[str]:
    return expected.replace(" or ", ", ").split(", ")


def _siblings(spec: type[Spec], section: str, key: str, given: Mapping[str, Any]) -> list[str]:
    """Names legal where the unknown key stands."""
    inner = key.removeprefix(f"{section}.").split(".")[:-1] if section else []
    fields, values = spec.model_fields, given
    for part in inner:
        values = values[part]
        nested: Any = fields[part].annotation if part in fields else None
        if values.get("kind") in SOURCES:  # one of a mix: its kind says what it may hold
            nested = SOURCES[values["kind"]]
        if isinstance(nested, type) and issubclass(nested, Spec):
            fields = nested.model_fields
        else:
            fields = {}
    return list(fields)


def _unknown(key: str, siblings: tuple[str, ...] | list[str], origins: Origins) -> Diagnostic:
    parent, _, name = key.rpartition(".")
    guess = near(name, siblings, 1)
    chain = origins.chain(key)
    hint = None
    if guess:
        better = f"{parent}.{guess[0]}" if parent else guess[0]
        hint = override(better, chain[-1].value) if chain else better
        if chain and chain[-1].kind == "file":
            hint = f"write `{guess[0]}` for `{name}` in {chain[-1].place}"
    where = f"in `{parent}`" if parent else "at the top level"
    return Diagnostic(
        "LF101",
        f"unknown key `{name}` {where}",
        key=key,
        origins=chain,
        notes=did_you_mean(name, siblings)
        or ((f"known here: {', '.join(siblings)}",) if siblings else ()),
        hint=hint,
    )


def _usual_option(section: str) -> str | None:
    if section in SINGLE:
        return f"{section}=default"
    return f"{section}=none" if "none" in registry.kinds(section) else None


def _shown(value: Any) -> str:
    if value is None:
        return "null"
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text if len(text) <= 60 else text[:57] + '...'}`"


def override(key: str, value: Any) -> str:
    """An override to paste into a shell."""
    text = value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
    if isinstance(value, list):
        text = text.replace('"', "")  # names need no quotes in Hydra's grammar
    return shlex.quote(f"{key}={text}")


def _env_name(key: str) -> str:
    if key.rpartition(".")[2] == "url":
        return "DATABASE_URL"
    return "HF_TOKEN" if key.startswith("hub.") else "MLFLOW_TRACKING_TOKEN"
