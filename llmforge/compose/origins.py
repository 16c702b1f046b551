"""Who set each value: the merge, replayed on trees that remember their writers.

In: the layers in merge order, the overrides, and what Hydra composed. Out: `Origins`, a chain
for every leaf, first writer first. The replay follows OmegaConf's merge rules and is checked
leaf by leaf against Hydra's result, which stays the truth: where they differ, the chain ends in
an entry that says so instead of naming the wrong file.

It reads no files and resolves no interpolations.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from llmforge.compose.layers import Layer, in_hydra
from llmforge.compose.overrides import Override
from llmforge.compose.tree import Entry, Tree, lift
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.origins import Origin, Origins, leaves

MISSING = "???"
_REFERENCE = re.compile(r"(?<!\\)\$\{[^{}]*\}")


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


class Replay:
    """The composition so far, with its writers."""

    def __init__(self) -> None:
        self.root = Node(below={})

    def file(self, layer: Layer) -> None:
        """Merge one file at its package."""
        tree = layer.scan.tree
        for part in reversed(layer.package.split(".") if layer.package else []):
            tree = {part: Entry(tree)}
        if not layer.package:
            tree = {key: entry for key, entry in tree.items() if not in_hydra(str(key))}
        self._merge(self.root, tree, lambda entry: Writer(layer.origin(entry), layer))

    def override(self, override: Override) -> None:
        """Apply one value override the way `OmegaConf.update` does."""
        parts: list[Any] = override.key.split(".")
        origin = override.origin()
        node = self.root
        for index, part in enumerate(parts[:-1]):
            if node.below is None:
                _set_in_list(node, parts[index:], override)
                return
            below = node.below.get(part)
            if below is None or (below.below is None and not isinstance(below.value, list)):
                below = node.below[part] = Node(below={})
            node = below
        if node.below is None:
            _set_in_list(node, parts[-1:], override)
        elif override.kind == "delete":
            node.below.pop(parts[-1], None)
            if not node.below:
                node.chain = [Writer(replace(origin, value={}))]
        elif isinstance(override.value, dict):
            entry = Entry(lift(override.value))
            known = node.below.get(parts[-1])
            if known is not None and known.below is None:
                del node.below[parts[-1]]
            self._merge(
                node, {parts[-1]: entry}, lambda e: Writer(replace(origin, value=e.plain()))
            )
        else:
            _leaf(node.below, parts[-1], override.value, Writer(origin))

    def _merge(self, node: Node, tree: Tree, writer: Any) -> None:
        below = node.below = {} if node.below is None else node.below
        for key, entry in tree.items():
            old = below.get(key)
            if not entry.is_mapping:
                if entry.value != MISSING or old is None:
                    _leaf(below, key, entry.value, writer(entry))
                continue
            if old is None or old.below is None:
                is_reference = old is not None and isinstance(old.value, str) and "${" in old.value
                template = old.chain if old is not None and is_reference else []
                old = below[key] = Node(below={}, template=template)
            if not entry.value and not old.below:
                old.chain.append(writer(entry))
            self._merge(old, entry.value, writer)


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
    node.chain.append(Writer(replace(override.origin(), value=node.value)))


def _with(value: Any, parts: Sequence[str], override: Override) -> Any:
    """A copy of a plain value with the override applied at `parts`."""
    if not parts:
        return override.value
    out: Any = list(value) if isinstance(value, list) else dict(value)
    at: Any = int(parts[0]) if isinstance(out, list) else parts[0]
    if override.kind == "delete" and len(parts) == 1:
        del out[at]
    else:
        below = out[at] if isinstance(out, list) else out.get(at)
        out[at] = _with(below if len(parts) > 1 and below is not None else {}, parts[1:], override)
    return out


@dataclass
class Trace:
    """The chains of a composition before interpolations are resolved."""

    chains: dict[str, list[Writer]]
    raw: dict[str, Any]
    """Every leaf as composed, interpolations as text."""

    def origins(self, values: Mapping[str, Any]) -> Origins:
        """A chain for every leaf of the resolved values."""
        out = Origins()
        for key, _ in leaves(values):
            source = _nearest(key, self.chains)
            if source is None:
                continue
            chain = [writer.origin for writer in self.chains[source]]
            out.chains[key] = [*chain[:-1], _interpolated(chain[-1])]
        return out

    def losses(self, keys: Iterable[str]) -> list[Diagnostic]:
        """LF117: an experiment's value that a file nobody asked for replaced."""
        out = []
        for key in keys:
            chain = self.chains.get(key, [])
            lost = [w for w in chain if w.layer is not None and w.layer.from_experiment]
            if not lost or chain[-1].layer is None or chain[-1].layer.chosen:
                continue
            if chain[-1].layer.from_experiment or chain[-1].origin.value == lost[-1].origin.value:
                continue
            out.append(_loss(key, lost[-1], chain))
        return out


def trace(layers: Sequence[Layer], overrides: Sequence[Override], raw: Mapping[str, Any]) -> Trace:
    """Replay the composition and attach its writers to what Hydra composed."""
    replay = Replay()
    for layer in layers:
        replay.file(layer)
    values = [o for o in overrides if not o.is_group and not o.for_hydra]
    for override in values:
        replay.override(override)
    out = Trace({}, {})
    if raw:
        _attach(raw, replay.root, "", [], out, values)
    return out


def _attach(
    raw: Mapping[Any, Any],
    node: Node | None,
    prefix: str,
    template: list[Writer],
    out: Trace,
    overrides: Sequence[Override],
) -> None:
    template = node.template if node is not None and node.template else template
    for key, value in raw.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        below = node.below.get(key) if node is not None and node.below is not None else None
        if isinstance(value, Mapping) and value:
            _attach(value, below, name, template, out, overrides)
            continue
        out.raw[name] = value
        if below is None:
            chain = list(template)
        else:
            chain = list(below.chain)
            replayed = {} if below.below is not None else below.value
            if repr(replayed) != repr(value):
                chain = []
        out.chains[name] = chain or [Writer(_unexplained(name, value, overrides))]


def _unexplained(key: str, value: Any, overrides: Sequence[Override]) -> Origin:
    """For what the replay does not reproduce: the override at fault if there is one."""
    for override in reversed(overrides):
        if key == override.key or key.startswith(f"{override.key}."):
            return replace(override.origin(), value=value)
    return Origin("file", "composition", value, reason="no file of the search path sets it")


def _nearest(key: str, chains: Mapping[str, Any]) -> str | None:
    """The key itself, or the interpolated parent whose value it is part of."""
    parts = key.split(".")
    names = (".".join(parts[:cut]) for cut in range(len(parts), 0, -1))
    return next((name for name in names if name in chains), None)


def _interpolated(origin: Origin) -> Origin:
    found = list(dict.fromkeys(_REFERENCE.findall(str(origin.value))))
    if not found:
        return origin
    reason = f"interpolated from {', '.join(found)}"
    return replace(origin, reason=f"{origin.reason}; {reason}" if origin.reason else reason)


def _loss(key: str, lost: Writer, chain: Sequence[Writer]) -> Diagnostic:
    winner = chain[-1].origin
    return Diagnostic(
        "LF117",
        f"`{key}` of {lost.origin.place} loses against {winner.place}",
        Severity.WARNING,
        key=key,
        origins=tuple(writer.origin for writer in chain),
        notes=("files later in the defaults list win over an experiment",),
        hint=f"{key}={lost.origin.value}",
    )
