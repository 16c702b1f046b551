"""Tables of what there is: registered models, versions. (Runs: `run/listing.py`.)

In: a registry. Out: text, or JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmforge.track.versions import Registry


def models_table(registry: Registry, name: str | None, as_json: bool) -> str:
    """Registered models, one line each; of one name all versions.

    Raises:
        UnknownModel: there is no model of that name.
    """
    if name is not None:
        registry.find(name)
        versions = [one.to_dict() for one in registry.versions(name)]
        return json.dumps(versions, indent=2) if as_json else _table(_shown(versions))
    found = []
    for model in registry.names():
        versions = [one.to_dict() for one in registry.versions(model)]
        marked = {alias: one for one in versions for alias in one["aliases"]}
        found.append(
            {
                "name": model,
                "versions": len(versions),
                **{alias: _pointed(marked.get(alias)) for alias in ("best", "last")},
                "run": versions[0]["run"] if versions else None,
            }
        )
    if as_json:
        return json.dumps(found, indent=2)
    if not found:
        return (
            f"no registered models in {registry.address}; "
            "llmforge train tracking.registered_model=NAME makes one"
        )
    return _table(found)


def _pointed(version: Mapping[str, Any] | None) -> str | None:
    if version is None:
        return None
    return f"{version['version']} (step {version['step']})"


def _shown(versions: list[dict[str, Any]]) -> list[dict[str, Any]]:
    rows = []
    for one in versions:
        metrics = one["metrics"]
        place = one["folder"] if one["there"] else "in MLflow" if one["uploaded"] else "not here"
        rows.append(
            {
                "version": one["version"],
                "alias": ", ".join(one["aliases"]) or None,
                "kind": one["kind"],
                "step": one["step"],
                "weights": one["weights"],
                "train_loss": metrics.get("train_loss"),
                "eval_loss": metrics.get("eval_loss"),
                "run": one["run"],
                "where": place,
            }
        )
    return rows


def _table(rows: list[dict[str, Any]]) -> str:
    from llmforge import render

    head = list(rows[0])
    return render.table([["" if row[k] is None else _figure(row[k]) for k in head] for row in rows],
                        head)  # fmt: skip


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
