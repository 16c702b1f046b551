"""JSON Schemas for editors: one per group, and one for whole configs and overlays.

In: the schema classes. Out: files in `schema/json/`, named in the first line of each YAML file.
Config files are partial (an option may inherit the rest through its defaults list), so nothing is
required, and any value may be an interpolation or the missing mark.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmforge import registry
from llmforge.schema.base import Spec
from llmforge.schema.data import SOURCES, MixData
from llmforge.schema.docs import docs_of
from llmforge.schema.run import SECTIONS, SINGLE, Scalars
from llmforge.schema.sweep import APART

FOLDER = Path(__file__).parent / "json"

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_LATER = {
    "description": "filled in later: an interpolation, or ??? for a value the user must give",
    "type": "string",
    "pattern": r"^(\?\?\?|.*\$\{.*\}.*)$",
}
_DEFAULTS = {"type": "array", "description": "Hydra's defaults list: what this file builds on"}


def group_schema(section: str) -> dict[str, Any]:
    """Schema of one group's option files."""
    single = SINGLE.get(section)
    if single is not None:
        kinds = {section: single}
    else:
        kinds = {kind: found.spec for kind, found in registry.kinds(section).items()}
    parts = [_partial(spec) for spec in kinds.values()]
    body = parts[0] if len(parts) == 1 else {"anyOf": parts}
    return {"$schema": _DIALECT, "title": section, **body}


def config_schema() -> dict[str, Any]:
    """Schema of the primary config and of experiment overlays."""
    scalars = _partial(Scalars)["properties"]
    sections = {section: _bare(group_schema(section)) for section in (*SECTIONS, *APART)}
    return {
        "$schema": _DIALECT,
        "title": "config",
        "type": "object",
        "properties": {**scalars, **sections, "hydra": {"type": "object"}},
        "additionalProperties": False,
    }


def all_schemas() -> dict[str, dict[str, Any]]:
    """File name (without ending) -> schema."""
    return {
        "config": config_schema(),
        **{section: group_schema(section) for section in (*SECTIONS, *APART)},
    }


def schemas_json() -> str:
    """The schema of whole configs, as text."""
    return json.dumps(config_schema(), indent=2, ensure_ascii=False)


def write_schemas(folder: str | Path = FOLDER) -> list[Path]:
    """Write every schema; returns the files."""
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    written = []
    for name, schema in all_schemas().items():
        path = target / f"{name}.json"
        path.write_text(json.dumps(schema, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        written.append(path)
    return written


def _bare(schema: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in schema.items() if key not in ("$schema", "title")}


def _partial(spec: type[Spec]) -> dict[str, Any]:
    """A spec's schema with nothing required and later values allowed."""
    full = spec.model_json_schema(ref_template="{model}")
    nested = full.get("$defs", {})
    properties = {
        name: _property(spec, name, value, nested) for name, value in full["properties"].items()
    }
    return {
        "title": spec.__name__,
        "description": (spec.__doc__ or "").strip(),
        "type": "object",
        "properties": {"defaults": _DEFAULTS, **properties},
        "additionalProperties": False,
    }


def _property(
    spec: type[Spec], name: str, value: dict[str, Any], nested: dict[str, Any]
) -> dict[str, Any]:
    annotation = spec.model_fields[name].annotation
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        return _partial(annotation)
    if annotation == MixData.model_fields["sources"].annotation:
        described: dict[str, Any] = {
            "type": "object",
            "additionalProperties": {"anyOf": [_partial(source) for source in SOURCES.values()]},
        }
    else:
        described = {k: v for k, v in value.items() if k != "title"}
    doc = docs_of(spec).get(name)
    out: dict[str, Any] = {"anyOf": [described, _LATER]}
    if doc:
        out["description"] = doc
    assert "$ref" not in json.dumps(described), nested  # noqa: S101 - sections nest by class only
    return out


if __name__ == "__main__":
    for file in write_schemas():
        print(file)
