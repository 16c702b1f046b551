"""Sources of a mix, completed: what a source does not say stands in its kind's own option.

In: a draft in which `data.sources.maths` is `{kind: jsonl, train: maths.jsonl}`. Out: the same with
every other key from `conf/data/jsonl.yaml`, and the origin of each. Nothing is checked here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmforge.compose import Draft, compose
from llmforge.origins import leaves
from llmforge.schema.data import SOURCES


def fill_sources(
    draft: Draft, config_dirs: Sequence[str | Path] = (), root: Path | None = None
) -> Draft:
    """The draft with whole sources; itself when there is no mix."""
    data = draft.values.get("data")
    if not isinstance(data, Mapping) or data.get("kind") != "mix":
        return draft
    sources = data.get("sources")
    if not isinstance(sources, Mapping):
        return draft
    values, origins = copy.deepcopy(draft.values), draft.origins.copy()
    options: dict[str, Draft] = {}
    for name, given in sources.items():
        kind = given.get("kind") if isinstance(given, Mapping) else None
        if kind not in SOURCES:
            continue  # parsing says so
        if kind not in options:
            options[kind] = compose([f"data={kind}"], config_dirs, root)
        option = options[kind]
        shipped = {
            key: value
            for key, value in option.values["data"].items()
            if key in SOURCES[kind].model_fields
        }
        values["data"]["sources"][name] = _merged(shipped, given)
        known = {key for key, _ in leaves(given)}
        for key, _ in leaves(shipped):
            if key not in known:
                for origin in option.origins.chain(f"data.{key}"):
                    origins.add(f"data.sources.{name}.{key}", origin)
    return replace(draft, values=values, origins=origins)


def _merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = copy.deepcopy(dict(below))
    for key, value in above.items():
        inner = merged.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            merged[key] = _merged(inner, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged
