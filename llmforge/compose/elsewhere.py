"""Which other option of a group has a key that the chosen one lacks.

In: the search path, the choices, a key. Out: `Elsewhere`, or nothing. Options are read as files,
with what they inherit in their own group, and are not composed: this is for a hint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.compose.library import Library
from llmforge.compose.scan import Scan, scan
from llmforge.compose.tree import Tree


@dataclass(frozen=True)
class Elsewhere:
    """Options that have the key."""

    group: str
    best: str
    """The one to propose."""
    note: str


def find_in_options(library: Library, choices: Mapping[str, Any], key: str) -> Elsewhere | None:
    """The other options of the key's group in which the key exists."""
    for group in library.groups():
        section = group.replace("/", ".")
        if not key.startswith(f"{section}."):
            continue
        path = key.removeprefix(f"{section}.").split(".")
        chosen = choices.get(group)
        having = [
            name
            for name in library.option_names(group)
            if name != chosen
            and any(_has(one.tree, path) for one in _inherited(library, group, name))
        ]
        if having:
            note = f"`{group}={chosen}` does not have it; these do: {', '.join(having)}"
            return Elsewhere(group, _plainest(library, group, having), note)
    return None


def _plainest(library: Library, group: str, names: list[str]) -> str:
    """`default`, else an option that inherits from none, else any."""
    if "default" in names:
        return "default"
    return next((n for n in names if len(_inherited(library, group, n)) == 1), names[0])


def _inherited(library: Library, group: str, name: str) -> list[Scan]:
    """An option's file and the files it includes from its own group."""
    found: dict[str, Scan] = {}
    todo = [name]
    while todo:
        option = todo.pop()
        path = library.find(f"{group}/{option}")
        if path is not None and option not in found:
            found[option] = scan(path)
            todo += [i.name for i in found[option].includes if not i.group and i.name != "_self_"]
    return list(found.values())


def _has(tree: Tree, path: list[str]) -> bool:
    at: Any = tree
    for part in path:
        entry = at.get(part) if isinstance(at, dict) else None
        if entry is None:
            return False
        at = entry.value
    return True
