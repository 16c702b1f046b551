"""How much one YAML file may hold, checked on the event stream before anything builds objects.

In: the text of a file. Out: nothing, or a `Fault`. A few hundred bytes of nested aliases expand
to billions of nodes, and deep nesting exhausts the stack, so both are counted where counting is
cheap. It does not look at keys or values.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_ALIASES = 100
MAX_WEIGHT = 50_000
"""Nodes a file with aliases may expand to; 64 characters of text weigh as much as a node."""
MAX_INTERPOLATION = 4096
"""Characters of one text with `${`: OmegaConf's parser is slow beyond that."""

PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml where PyYAML was built with it, about ten times faster."""


@dataclass(frozen=True)
class Fault:
    """Something wrong in a file; the place is known, the package it lands in not yet."""

    code: str
    message: str
    path: tuple[Any, ...] = ()
    """Keys down to the fault, within the file."""
    line: int | None = None
    column: int | None = None
    notes: tuple[str, ...] = ()
    hint: str | None = None
    value: Any = None


@dataclass
class _Open:
    """A collection whose end was not seen yet."""

    anchor: str | None
    before: int
    """Expanded weight of everything that came earlier in the file."""
    height: int = 0


def measure(text: str) -> Fault | None:
    """Refuse text that is too deep or expands too far. Raises `yaml.YAMLError` as the parser does.

    The text's size in bytes is the reader's business: it need not be read to be refused.
    """
    done: dict[str, tuple[int, int]] = {}
    """Anchor -> expanded weight and height of the finished node."""
    opened: list[_Open] = []
    aliases = weight = 0
    for event in yaml.parse(text, Loader=PARSER):
        height = 0
        if isinstance(event, yaml.CollectionStartEvent):
            opened.append(_Open(event.anchor, weight))
            weight += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            node = opened.pop()
            height = node.height + 1
            if node.anchor:
                done[node.anchor] = (weight - node.before, height)
        elif isinstance(event, yaml.ScalarEvent):
            cost = 1 + len(event.value) // 64
            weight += cost
            if event.anchor:
                done[event.anchor] = (cost, 0)
        elif isinstance(event, yaml.AliasEvent):
            aliases += 1
            if any(node.anchor == event.anchor for node in opened):
                return _fault(event, f"alias `*{event.anchor}` contains itself")
            cost, height = done.get(event.anchor, (1, 0))
            weight += cost
        if opened:
            opened[-1].height = max(opened[-1].height, height)
        if len(opened) + height > MAX_DEPTH:
            return _fault(event, f"nesting deeper than {MAX_DEPTH} levels")
        if aliases > MAX_ALIASES:
            return _fault(event, f"more than {MAX_ALIASES} aliases")
        if aliases and weight > MAX_WEIGHT:
            return _fault(event, f"aliases expand to more than {MAX_WEIGHT} nodes")
    return None


def _fault(event: yaml.Event, message: str) -> Fault:
    mark = event.start_mark
    return Fault("LF109", message, line=mark.line + 1, column=mark.column + 1)
