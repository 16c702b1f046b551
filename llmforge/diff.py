"""What differs between two plans, what it means, and which stages would run again.

In: two plans. Out: `Difference` with one `Change` per setting. Classes of change are the effects
that the schema declares: data, numerics, evaluation, speed, bookkeeping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.origins import Origin, leaves
from llmforge.plan import STAGE_EFFECTS, Plan
from llmforge.render import shown
from llmforge.schema import Effect, Spec
from llmforge.schema.extension import NAMED
from llmforge.schema.run import Scalars
from llmforge.schema.typed import section_spec

_ABSENT = "(absent)"


@dataclass(frozen=True)
class Change:
    """One setting that differs."""

    key: str
    before: Any
    after: Any
    effect: Effect
    origin: Origin | None
    """Who wrote the value after."""


@dataclass(frozen=True)
class Difference:
    """All changes, and the stages whose fingerprints differ."""

    changes: tuple[Change, ...]
    stages: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "changes": [
                {
                    "key": c.key,
                    "before": c.before,
                    "after": c.after,
                    "effect": c.effect.value,
                    "origin": c.origin.to_dict() if c.origin else None,
                }
                for c in self.changes
            ],
            "stages_that_would_run_again": list(self.stages),
        }


def diff(before: Plan, after: Plan) -> Difference:
    """Compare two plans setting by setting."""
    old, new = dict(leaves(before.settings)), dict(leaves(after.settings))
    changes = [
        Change(
            key,
            old.get(key, _ABSENT),
            new.get(key, _ABSENT),
            effect_of(key, after.settings if key in new else before.settings),
            (after.origins.chain(key) or (None,))[-1],
        )
        for key in [*old, *(k for k in new if k not in old)]
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]
    changes += _content_changes(before, after)
    order = list(Effect)
    changes.sort(key=lambda change: order.index(change.effect))
    asked = {*before.asked_stages, *after.asked_stages}
    differ = (s for s in STAGE_EFFECTS if before.stages.get(s) != after.stages.get(s))
    stages = tuple(stage for stage in differ if stage in asked)
    return Difference(tuple(changes), stages)


def _content_changes(before: Plan, after: Plan) -> list[Change]:
    """Files whose content changed behind an unchanged path."""
    old = dict(leaves(before.facts["identity"], "content"))
    new = dict(leaves(after.facts["identity"], "content"))
    return [
        Change(
            key,
            old.get(key, _ABSENT),
            new.get(key, _ABSENT),
            Effect.NUMERICS if key.startswith("content.model") else Effect.DATA,
            None,
        )
        for key in sorted({*old, *new})
        if old.get(key, _ABSENT) != new.get(key, _ABSENT)
    ]


def effect_of(key: str, settings: Mapping[str, Any]) -> Effect:
    """The schema's effect of a dotted settings key."""
    section, *path = key.split(".")
    spec: type[Spec] | None
    if section in NAMED and path and path[0] in settings[section]:
        name, *path = path
        spec = section_spec(f"{section}.{name}", settings[section][name])
    elif section in Scalars.model_fields:
        return Scalars.effect_of(section)
    else:
        spec = section_spec(section, settings[section])
    for index, name in enumerate(path):
        if spec is None or name not in spec.model_fields:
            break
        nested = spec.model_fields[name].annotation
        if name in spec.by_name and index < len(path) - 1:
            return spec.effect_within(name, path[index + 1])
        if index == len(path) - 1 or not (isinstance(nested, type) and issubclass(nested, Spec)):
            return spec.effect_of(name)
        spec = nested
    return Effect.NUMERICS


def diff_text(found: Difference) -> str:
    """Changes by class with `~` changed, `+` added, `-` gone, and the stages at the end."""
    if not found.changes:
        return "no difference: the same run"
    width = max(len(change.key) for change in found.changes)
    lines: list[str] = []
    for effect in Effect:
        of_class = [change for change in found.changes if change.effect is effect]
        if not of_class:
            continue
        lines.append(f"{effect.value}:")
        for change in of_class:
            mark = "+" if change.before == _ABSENT else "-" if change.after == _ABSENT else "~"
            origin = f"   {change.origin.place}" if change.origin else ""
            lines.append(
                f"  {mark} {change.key:<{width}}  {shown(change.before, 28)} -> "
                f"{shown(change.after, 28)}{origin}"
            )
    again = ", ".join(found.stages) if found.stages else "none; both are the same run"
    return "\n".join([*lines, "", f"stages that would run again: {again}"])
