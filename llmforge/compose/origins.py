"""Who set each value: a chain of origins for every leaf.

In: the layers, the overrides, and what Hydra composed. Out: `Trace`, which turns into `Origins`
for the resolved values. Chains come from the replayed merge and are checked leaf by leaf against
Hydra's result, which stays the truth: where they differ, the chain ends in an entry that says so
instead of naming the wrong file.

It reads no files and resolves no interpolations.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmforge.compose.layers import Layer
from llmforge.compose.merge import Node, Replay, Writer
from llmforge.compose.overrides import Override, override_text
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.origins import Origin, Origins, leaves


@dataclass
class Trace:
    """The chains of a composition before interpolations are resolved."""

    chains: dict[str, list[Writer]]
    """By key of every composed leaf, interpolations being leaves still."""

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
    behind = {override.key: override for override in values}
    for override in values:
        replay.override(override)
    behind.update(replay.behind)
    out = Trace({})
    if raw:
        _attach(raw, replay.root, "", [], out, behind)
    return out


def _attach(
    raw: Mapping[Any, Any],
    node: Node | None,
    prefix: str,
    template: list[Writer],
    out: Trace,
    behind: Mapping[str, Override],
) -> None:
    if node is not None and (own := _referring(node)):
        template = own
    for key, value in raw.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        below = node.below.get(key) if node is not None and node.below is not None else None
        if isinstance(value, Mapping) and value:
            _attach(value, below, name, template, out, behind)
            continue
        chain = template if below is None else below.chain
        if below is not None and not below.composes_to(value):
            chain = _referring(below)
        out.chains[name] = list(chain) or [Writer(_unexplained(name, value, behind))]


def _referring(node: Node) -> list[Writer]:
    """The writers of an interpolation; a merge may put what it refers to in its place."""
    if node.below is not None:
        return node.template
    return node.chain if "${" in str(node.value) else []


def _unexplained(key: str, value: Any, behind: Mapping[str, Override]) -> Origin:
    """For what the replay does not reproduce: the override at fault if there is one."""
    parts = key.split(".")
    for cut in range(len(parts), 0, -1):
        if (override := behind.get(".".join(parts[:cut]))) is not None:
            return replace(override.origin(), value=value)
    return Origin("file", "composition", value, reason="no file of the search path sets it")


def _nearest(key: str, chains: Mapping[str, Any]) -> str | None:
    """The key itself, or the interpolated parent whose value it is part of."""
    parts = key.split(".")
    names = (".".join(parts[:cut]) for cut in range(len(parts), 0, -1))
    return next((name for name in names if name in chains), None)


def _interpolated(origin: Origin) -> Origin:
    found = list(dict.fromkeys(_references(origin.value)))
    if not found:
        return origin
    reason = f"interpolated from {', '.join(found)}"
    return replace(origin, reason=f"{origin.reason}; {reason}" if origin.reason else reason)


def _references(value: Any) -> Iterator[str]:
    """Every outermost `${...}` in a value."""
    if isinstance(value, Mapping):
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            yield from _references(item)
    if not isinstance(value, str):
        return
    depth = start = 0
    for at, char in enumerate(value):
        if value.startswith("${", at) and value[at - 1 : at] != "\\":
            start = start if depth else at
            depth += 1
        elif char == "}" and depth:
            depth -= 1
            if not depth:
                yield value[start : at + 1]


def _loss(key: str, lost: Writer, chain: Sequence[Writer]) -> Diagnostic:
    winner, value = chain[-1].origin, lost.origin.value
    return Diagnostic(
        "LF117",
        f"`{key}` of {lost.origin.place} loses against {winner.place}",
        Severity.WARNING,
        key=key,
        origins=tuple(writer.origin for writer in chain),
        notes=("files later in the defaults list win over an experiment",),
        hint=override_text(key, value),
    )
