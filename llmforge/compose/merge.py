"""The merge, replayed on trees that remember their writers.

In: layers in merge order, then value overrides. Out: a tree of `Node`s in which every leaf holds
the chain of those who wrote it, and the keys where a list met a mapping. The rules are those of
OmegaConf's merge and of `OmegaConf.update`; `origins.py` checks the result against Hydra's.

Hydra's own node is left out, and interpolations stay text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmforge.compose.layers import Layer, in_hydra
from llmforge.compose.overrides import Override
from llmforge.compose.tree import MISSING, Entry, Tree, dotted, lift
from llmforge.origins import Origin

_MOST_HOPS = 8
_REFERENCE = re.compile(r"\$\{([\w.]+)\}")


@dataclass
class Writer:
    """One origin, and the layer it came from (None: an override)."""

    origin: Origin
    layer: Layer | None = None


@dataclass
class Node:
    """A key while the merge is replayed: a mapping (`below` set) or a leaf."""

    below: dict[Any, Node] | None = None
    value: Any = None
    chain: list[Writer] = field(default_factory=list)
    """Writers of the leaf; of an empty mapping, who left it empty."""
    template: list[Writer] = field(default_factory=list)
    """Writers of an interpolation that later files merged into: what they did not set is its."""

    def clashes_with(self, entry: Entry) -> bool:
        """A list and a mapping do not merge."""
        if self.below is not None:
            return isinstance(entry.value, list)
        return isinstance(self.value, list) and entry.is_mapping

    def composes_to(self, value: Any) -> bool:
        """Whether this is the leaf that Hydra composed; compared as text, for the sake of nan."""
        return repr({} if self.below is not None else self.value) == repr(value)

    def last_writer(self) -> Writer:
        """Who wrote here, or below, last."""
        below = list((self.below or {}).values())
        return self.chain[-1] if self.chain or not below else below[-1].last_writer()


class Replay:
    """The composition so far, with its writers."""

    def __init__(self) -> None:
        self.root = Node(below={})
        self.behind: dict[str, Override] = {}
        """Overrides that may have been written through an interpolation, by the key behind it."""
        self.clashes: list[tuple[str, Origin, Origin]] = []
        """Keys that are a list in one file and a mapping in another, which Hydra refuses."""

    def file(self, layer: Layer) -> None:
        """Merge one file at its package."""
        tree = layer.scan.tree
        for part in reversed(layer.package.split(".") if layer.package else []):
            tree = {part: Entry(tree)}
        tree = {key: entry for key, entry in tree.items() if not in_hydra(str(key))}
        self._merge(self.root, tree, lambda entry: Writer(layer.origin(entry), layer), ())

    def override(self, override: Override) -> None:
        """Apply one value override the way Hydra and `OmegaConf.update` do."""
        parts: list[Any] = override.key.split(".")
        if override.kind == "delete":
            self._delete(parts, override)
            return
        node = self.root
        for index, part in enumerate(parts[:-1]):
            if node.below is None:
                break
            below = node.below.get(part)
            if below is None or (below.below is None and not isinstance(below.value, list)):
                template = self._refer(below, parts[1:], override)
                below = node.below[part] = Node(below={}, template=template)
            node, parts = below, override.key.split(".")[index + 1 :]
        if node.below is None:
            _set_in_list(node, parts, override)
        elif isinstance(override.value, dict):
            known = node.below.get(parts[-1])
            if known is not None and known.below is None:
                del node.below[parts[-1]]
            tree = {parts[-1]: Entry(lift(override.value))}
            self._merge(node, tree, lambda entry: Writer(_wrote(override, entry.plain())), ())
        else:
            _leaf(node.below, parts[-1], override.value, Writer(override.origin()))

    def _refer(self, node: Node | None, rest: Sequence[str], override: Override) -> list[Writer]:
        """Note where a key below an interpolation leads: OmegaConf 2.3 replaces the
        interpolation, 2.4 writes to what it refers to."""
        if node is None or (target := _REFERENCE.fullmatch(str(node.value))) is None:
            return []
        self.behind[dotted((target[1], *rest))] = override
        return node.chain

    def _delete(self, parts: Sequence[Any], override: Override, hops: int = 0) -> None:
        """Remove a key; below an interpolation Hydra removes it from what that refers to."""
        node = self.root
        for index, part in enumerate(parts[:-1]):
            below = (node.below or {}).get(part)
            if below is None:
                return
            if below.below is None:
                target = _REFERENCE.fullmatch(str(below.value))
                if target and hops < _MOST_HOPS:
                    self._delete([*target[1].split("."), *parts[index + 1 :]], override, hops + 1)
                return
            node = below
        if node.below is not None:
            node.below.pop(parts[-1], None)
            if not node.below:
                node.chain = [Writer(_wrote(override, {}))]

    def _merge(
        self, node: Node, tree: Tree, writer: Callable[[Entry], Writer], path: tuple[Any, ...]
    ) -> None:
        below = node.below = {} if node.below is None else node.below
        for key, entry in tree.items():
            old = below.get(key)
            if old is not None and old.clashes_with(entry):
                places = (old.last_writer().origin, writer(entry).origin)
                self.clashes.append((dotted((*path, key)), *places))
            if not entry.is_mapping:
                if entry.value != MISSING or old is None:
                    _leaf(below, key, entry.value, writer(entry))
                continue
            if old is None or old.below is None:
                template = old.chain if old is not None and "${" in str(old.value) else []
                old = below[key] = Node(below={}, template=template)
            if not entry.value and not old.below:
                old.chain.append(writer(entry))
            self._merge(old, entry.value, writer, (*path, key))


def _wrote(override: Override, value: Any) -> Origin:
    """The override as the writer of a part of its value."""
    return replace(override.origin(), value=value)


def _leaf(below: dict[Any, Node], key: Any, value: Any, writer: Writer) -> None:
    old = below.get(key)
    if old is None or old.below is not None:
        old = below[key] = Node()
    old.value = value
    old.chain.append(writer)


def _set_in_list(node: Node, parts: Sequence[str], override: Override) -> None:
    """A list is one leaf: `key.0=x` writes the whole of it anew."""
    if not isinstance(node.value, list):
        return
    node.value = _with(node.value, parts, override)
    node.chain.append(Writer(_wrote(override, node.value)))


def _with(value: Any, parts: Sequence[str], override: Override) -> Any:
    """A copy of a plain value with the override's value at `parts`."""
    if not parts:
        return override.value
    if isinstance(value, list):
        at = int(parts[0])
        return [*value[:at], _with(value[at], parts[1:], override), *value[at + 1 :]]
    known = value if isinstance(value, dict) else {}
    return {**known, parts[0]: _with(known.get(parts[0]), parts[1:], override)}
