"""Why a key cannot be set, and which key was probably meant (LF101, LF102, LF106).

In: one override and the config composed without it. Out: diagnostics: none when the override can
be applied. Keys are looked for among the siblings, in the other options of the section's group,
and by their last part anywhere.

It does not apply anything. Which mappings are open to new names is the schema's to say.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf

from llmforge.compose.elsewhere import find_in_options
from llmforge.compose.library import Library
from llmforge.compose.overrides import Override
from llmforge.compose.tree import unparsable
from llmforge.diagnostics import Diagnostic, did_you_mean, near
from llmforge.origins import leaves

_MOST_NAMES = 12


@dataclass(frozen=True)
class Unknowns:
    """Knows what exists and what might have been meant."""

    library: Library
    config: DictConfig
    choices: dict[str, Any]

    def opened(self, override: Override) -> Override:
        """A plain setting in a mapping of the user's own names may add names to it."""
        # on the slow path only: a composition in which nothing is wrong does without pydantic
        from llmforge.schema.mappings import mapping_above

        above = mapping_above(override.key) if override.kind == "set" else None
        if above is None:
            return override
        tree = OmegaConf.to_container(self.config, resolve=False)
        there = _first_unknown(tree, above.split(".")) is None
        return override.forced() if there else override

    def find(self, override: Override) -> list[Diagnostic]:
        """What is wrong with this override; empty if nothing is."""
        if "/" in override.key or override.package is not None:
            return [self._unknown_group(override)]
        if bad := _broken_text(override):
            return [bad]
        path = override.key.split(".")
        tree = OmegaConf.to_container(self.config, resolve=False)
        unknown = _first_unknown(tree, path)
        if bad := self._clash(override, tree, path, unknown):
            return [bad]
        if override.kind == "add":
            return self._already_there(override)
        if override.kind == "force":
            return []
        if unknown is not None:
            return [self._unknown_key(override, override.key, tree, unknown)]
        if override.kind == "set" and isinstance(override.value, dict):
            return [
                self._unknown_key(override, ".".join(below), tree, index)
                for below in _new_keys(_at(tree, path), override.value, path)
                if (index := _first_unknown(tree, below)) is not None
            ]
        return []

    def _clash(
        self, override: Override, tree: Any, path: list[str], unknown: int | None
    ) -> Diagnostic | None:
        """LF119 for a list put on a mapping or the other way round; LF101 for a bad index."""
        if unknown is not None:
            in_list = isinstance(_at(tree, path[:unknown]), list)
            return self._unknown_key(override, override.key, tree, unknown) if in_list else None
        known = _at(tree, path)
        there, given = _shape(known), _shape(override.value)
        if override.kind == "delete" or there is None or given is None or there == given:
            return None
        return Diagnostic(
            "LF119",
            f"`{override.key}` is a {there}, and `{override.text}` is a {given}",
            key=override.key,
            origins=(override.origin(),),
        )

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
        notes: tuple[str, ...] = ()
        hint = None
        if other := find_in_options(self.library, self.choices, key):
            notes = (other.note,)
            hint = f"{other.group}={other.best} {shlex.quote(override.text)}"
        else:
            meant = self._meant(tree, path, index, siblings)
            if meant is not None:
                notes = (f"did you mean `{meant}`?",)
                hint = _respelt(override, key, meant)
            elif above == {} and override.kind == "set":
                notes = (f"`{section}` is empty; `+` adds a key to it",)
                hint = shlex.quote(f"+{override.text}")
            else:
                notes = did_you_mean(path[index], siblings) or _about(section, above)
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


def _shape(value: Any) -> str | None:
    if isinstance(value, list):
        return "list"
    return "mapping" if isinstance(value, dict) else None


def _about(section: str, above: Any) -> tuple[str, ...]:
    """What is there instead of the key."""
    if not section:
        return ()
    if isinstance(above, dict):
        names = sorted(map(str, above))
        listed = ", ".join(names[:_MOST_NAMES]) + (", ..." if len(names) > _MOST_NAMES else "")
        return (f"keys of `{section}`: {listed}",)
    if isinstance(above, list):
        return (f"`{section}` is a list of {len(above)}, counted from 0",)
    return (f"`{section}` is a value, not a section",)


def _respelt(override: Override, key: str, meant: str) -> str | None:
    """The override with the key that was meant, also inside a mapping value."""
    prefix = "~" if override.kind == "delete" else ""
    _, equals, value = override.text.partition("=")
    if key == override.key:
        return shlex.quote(f"{prefix}{meant}{equals}{value}")
    wrong, right = key.rpartition(".")[2], meant.rpartition(".")[2]
    return shlex.quote(override.text.replace(wrong, right)) if value.count(wrong) == 1 else None


def _broken_text(override: Override) -> Diagnostic | None:
    """LF106 for an interpolation on the command line that does not parse."""
    for _, value in leaves({"": override.value}):
        if isinstance(value, str) and "${" in value and (why := unparsable(value)):
            message = f"`{override.key}`: {why[1]}"
            return Diagnostic(why[0], message, key=override.key, origins=(override.origin(),))
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
