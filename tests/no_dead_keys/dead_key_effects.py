"""What follows from composed values: everything that a plan would hold besides the value itself.

In: composed values and the key that is changed. Out: `outcome`, a text to compare; two texts that
differ mean that the key has an effect.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from typing import Any

from llmforge import plugins
from llmforge.compiler.context import Context, Facts
from llmforge.compiler.estimate import foretell
from llmforge.compiler.fill import fill_sources
from llmforge.compiler.lower import lower
from llmforge.compiler.parse import parse
from llmforge.compiler.passes import run_passes, run_rules
from llmforge.compiler.preset_files import fill_presets
from llmforge.compose import Draft
from llmforge.origins import Origin, Origins, leaves
from llmforge.schema import Spec
from llmforge.schema.data import Fields

Values = dict[str, Any]


def has_effect(
    values: Values, key: str, cls: type[Spec], others: list[Any], with_rules: bool = False
) -> bool:
    """Does any other value at `key` change something?

    Args:
        cls: the class that has the field.
        with_rules: what the rules say counts as well.

    Raises:
        AssertionError: nothing follows from the values as they are.
    """
    before = outcome(values, key, cls, with_rules)
    assert before is not None, f"the values in which {key} is changed are refused"
    for other in others:
        changed = copy.deepcopy(values)
        place(changed, key, other)
        after = outcome(changed, key, cls, with_rules)
        if after not in (None, before):
            return True
    return False


def outcome(values: Values, key: str, cls: type[Spec], with_rules: bool) -> str | None:
    """Everything that follows from composed values; None where nothing does, as they are illegal.

    The value at `key` is left out, unless a pass made another class of the section (a collator
    `auto` becomes `chat`): what is handed over there goes on living under the same key.
    """
    values = filled(values)
    spec, _ = parse(values)
    if spec is None:
        return None
    plugins.load(list(spec.plugins))
    context, _ = run_passes(Context(spec, Facts()), Origins())
    settings = context.spec.settings()
    now = getattr(context.spec, key.partition(".")[0])
    handed_over = isinstance(now, Spec) and not isinstance(now, cls) and cls is not Fields
    if not handed_over:
        place(settings, key, None)
    try:
        lowered = [(entry.key, entry.value) for entry in lower(context)]
        estimate = [(entry.key, entry.value) for entry in foretell(context)]
    except AssertionError:  # facts that are not there, since the change was refused
        return None
    facts = {
        name: getattr(context.facts, name) for name in ("model", "tokenizer", "data", "samples")
    }
    facts |= {"model_config": context.facts.model_config, "identity": context.facts.identity}
    told = [(d.code, d.message) for d in run_rules(context)] if with_rules else []
    return json.dumps([settings, lowered, estimate, facts, told], sort_keys=True, default=_plain)


PRESETS = ("optimizer", "lora", "deepspeed")
"""Sections that a file may hold."""


def filled(values: Values) -> Values:
    """Composed values with the sources of a mix completed and presets read from their files."""
    kinds = [values.get(section, {}).get("kind") for section in ("data", *PRESETS)]
    if kinds[0] != "mix" and "file" not in kinds[1:]:
        return values
    origins = Origins()
    for section in PRESETS:
        for key, value in leaves(values[section], section):
            # all but the path as from an option's file: what a user wrote wins over the preset
            written = key == f"{section}.path"
            where = f"{key}={value}" if written else f"conf/{section}/option.yaml"
            origins.add(key, Origin("override" if written else "file", where, value))
    return dict(fill_presets(fill_sources(Draft(copy.deepcopy(values), origins))).values)


def place(values: Values, key: str, value: Any) -> None:
    """Set what stands at a dotted key."""
    *parents, name = key.split(".")
    here = values
    for part in parents:
        here = here[part]
    here[name] = value


def value_at(values: Mapping[str, Any], key: str) -> Any:
    """What stands at a dotted key."""
    here: Any = values
    for part in key.split("."):
        here = here[part]
    return here


def _plain(value: Any) -> Any:
    if not is_dataclass(value) or isinstance(value, type):
        return str(value)
    found = asdict(value)
    # the place of a snapshot is a digest of all settings, and says nothing about any one of them
    return {**found, **({"sources": _no_places(found["sources"])} if "sources" in found else {})}


def _no_places(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _no_places(inner) for key, inner in value.items() if key != "file"}
    return [_no_places(inner) for inner in value] if isinstance(value, list | tuple) else value
