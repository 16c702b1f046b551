"""Why a key cannot be set, and which key was probably meant (LF101, LF102, LF106).

In: one override and the config composed without it. Out: diagnostics: none when the override can
be applied. Keys are looked for among the siblings, in the other options of the section's group,
and by their last part anywhere.

It does not apply anything.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmforge.compose.library import Library
from llmforge.compose.overrides import Override
from llmforge.compose.scan import scan
from llmforge.compose.tree import Tree, unparsable
from llmforge.diagnostics import Diagnostic, did_you_mean, near
from llmforge.origins import leaves


@dataclass(frozen=True)
class Unknowns:
    """Knows what exists and what might have been meant."""

    library: Library
    config: DictConfig
    choices: dict[str, Any]

    def find(self, override: Override) -> list[Diagnostic]:
        """What is wrong with this override; empty if nothing is."""
        if "/" in override.key or override.package is not None:
            return [self._unknown_group(override)]
        if bad := _broken_text(override):
            return [bad]
        path = override.key.split(".")
        if override.kind == "add":
            return self._already_there(override)
        if override.kind == "force":
            return []
        tree = OmegaConf.to_container(self.config, resolve=False)
        unknown = _first_unknown(tree, path)
        if unknown is not None:
            return [self._unknown_key(override, override.key, tree, unknown)]
        if override.kind == "set" and isinstance(override.value, dict):
            return [
                self._unknown_key(override, ".".join(below), tree, index)
                for below in _new_keys(_at(tree, path), override.value, path)
                if (index := _first_unknown(tree, below)) is not None
            ]
        return []

    def _already_there(self, override: Override) -> list[Diagnostic]:
        try:
            known = OmegaConf.select(self.config, override.key, throw_on_missing=False)
        except Exception:  # a broken interpolation stands there, so something does
            known = ""
        if known is None or isinstance(override.value, dict | list):
            return []
        plain = override.text.removeprefix("+")
        return [
            Diagnostic(
                "LF101",
                f"`{override.key}` is there already, so `{override.text}` cannot add it",
                key=override.key,
                origins=(override.origin(),),
                hint=shlex.quote(plain),
            )
        ]

    def _unknown_group(self, override: Override) -> Diagnostic:
        known = self.library.groups()
        best = near(override.key, known, limit=1)
        return Diagnostic(
            "LF102",
            f"no group `{override.key}`",
            origins=(override.origin(),),
            notes=did_you_mean(override.key, known),
            hint=f"{best[0]}={override.value}" if best else None,
        )

    def _unknown_key(self, override: Override, key: str, tree: Any, index: int) -> Diagnostic:
        """LF101 for `key`, whose part at `index` does not exist."""
        path = key.split(".")
        if index == 0 and (group := self._misspelt_group(override, path[0])):
            return group
        above = _at(tree, path[:index])
        siblings = sorted(map(str, above)) if isinstance(above, dict) else []
        section = ".".join(path[:index])
        message = f"unknown key `{key}`"
        hint, notes = self._in_other_options(override, key)
        if hint is None:
            meant = self._meant(tree, path, index, siblings)
            if meant is not None:
                notes = (f"did you mean `{meant}`?",)
                hint = _respelt(override, meant) if key == override.key else None
            else:
                notes = did_you_mean(path[index], siblings)
        if section and not notes:
            listed = ", ".join(siblings[:12]) or "none"
            notes = (f"keys of `{section}`: {listed}{', ...' if len(siblings) > 12 else ''}",)
        return Diagnostic(
            "LF101", message, key=key, origins=(override.origin(),), notes=notes, hint=hint
        )

    def _misspelt_group(self, override: Override, word: str) -> Diagnostic | None:
        """`modl=tiny`: a group was meant."""
        if "." in override.key or not isinstance(override.value, str):
            return None
        groups = [group for group in self.library.groups() if not group.startswith("hydra")]
        best = near(word, groups, limit=1)
        if not best:
            return None
        options = self.library.option_names(best[0])
        option = near(override.value, options, limit=1)
        return Diagnostic(
            "LF102",
            f"no group `{word}`",
            key=override.key,
            origins=(override.origin(),),
            notes=(*did_you_mean(word, groups), f"options of `{best[0]}`: {', '.join(options)}"),
            hint=f"{best[0]}={option[0] if option else '<option>'}",
        )

    def _in_other_options(self, override: Override, key: str) -> tuple[str | None, tuple[str, ...]]:
        """Options of the section's group that do have the key."""
        for group in self.library.groups():
            section = group.replace("/", ".")
            if not key.startswith(f"{section}."):
                continue
            rest = key.removeprefix(f"{section}.").split(".")
            chosen = self.choices.get(group)
            having = [
                name
                for name in self.library.option_names(group)
                if name != chosen and _has(self._option(group, name), rest)
            ]
            if having:
                first = self._plainest(group, having, rest)
                note = f"`{group}={chosen}` does not have it; these do: {', '.join(having)}"
                return f"{group}={first} {shlex.quote(override.text)}", (note,)
        return None, ()

    def _plainest(self, group: str, names: list[str], rest: list[str]) -> str:
        """The option to propose: `default`, else one that sets the key itself, else any."""
        if "default" in names:
            return "default"
        own = [n for n in names if _has([self._tree(group, n)], rest) and not self._bases(group, n)]
        return (own or names)[0]

    def _option(self, group: str, name: str, seen: tuple[str, ...] = ()) -> list[Tree]:
        """The trees of an option and of what it inherits."""
        trees = [self._tree(group, name)]
        for base in self._bases(group, name):
            if base not in seen:
                trees += self._option(group, base, (*seen, name))
        return trees

    def _tree(self, group: str, name: str) -> Tree:
        path = self.library.find(f"{group}/{name}")
        return scan(path).tree if path is not None else {}

    def _bases(self, group: str, name: str) -> list[str]:
        path = self.library.find(f"{group}/{name}")
        includes = scan(path).includes if path is not None else ()
        return [i.name for i in includes if not i.group and i.name != "_self_"]

    def _meant(self, tree: Any, path: list[str], index: int, siblings: list[str]) -> str | None:
        """The existing key nearest to an unknown one."""
        for candidate in near(path[index], siblings):
            fixed = [*path[:index], candidate, *path[index + 1 :]]
            if _first_unknown(tree, fixed) is None:
                return ".".join(fixed)
        last = path[-1]
        same = [key for key, _ in leaves(tree) if key.rpartition(".")[2] == last]
        mine = [key for key in same if not key.startswith("hydra.")]
        return mine[0] if len(mine) == 1 else None


def _respelt(override: Override, key: str) -> str:
    """The same override of another key."""
    prefix = "~" if override.kind == "delete" else ""
    value = override.text.partition("=")
    return shlex.quote(f"{prefix}{key}{value[1]}{value[2]}")


def _broken_text(override: Override) -> Diagnostic | None:
    """LF106 for an interpolation on the command line that does not parse."""
    for _, value in leaves({"": override.value}):
        if isinstance(value, str) and "${" in value and (why := unparsable(value)):
            return Diagnostic(why[0], why[1], key=override.key, origins=(override.origin(),))
    return None


def _first_unknown(tree: Any, path: list[str]) -> int | None:
    """Index of the first part of the path that does not exist."""
    for index, part in enumerate(path):
        if isinstance(tree, list):
            if not part.isdigit() or int(part) >= len(tree):
                return index
            tree = tree[int(part)]
        elif isinstance(tree, dict) and part in tree:
            tree = tree[part]
        else:
            return index
    return None


def _at(tree: Any, path: list[str]) -> Any:
    for part in path:
        tree = tree[int(part)] if isinstance(tree, list) else tree[part]
    return tree


def _new_keys(known: Any, value: dict[Any, Any], path: list[str]) -> Iterator[list[str]]:
    """Paths in a mapping override that an existing mapping does not have."""
    if not isinstance(known, dict):
        return
    for key, below in value.items():
        here = [*path, str(key)]
        if key not in known:
            yield here
        elif isinstance(below, dict):
            yield from _new_keys(known[key], below, here)


def _has(trees: list[Tree], path: list[str]) -> bool:
    return any(_has_one(tree, path) for tree in trees)


def _has_one(tree: Any, path: list[str]) -> bool:
    for part in path:
        entry = tree.get(part) if isinstance(tree, dict) else None
        if entry is None:
            return False
        tree = entry.value
    return True
