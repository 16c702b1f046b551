"""How much one YAML file may hold, checked on the event stream before anything builds objects.

In: the text of a file. Out: nothing, or a `Fault`. A few hundred bytes of nested aliases expand
to billions of nodes, and deep nesting exhausts the stack, so both are counted where counting is
cheap. It does not look at keys or values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

MAX_BYTES = 1 << 20
MAX_DEPTH = 64
MAX_ALIASES = 100
MAX_WEIGHT = 50_000
"""Values a file may expand to; 64 characters of text weigh as much as one value."""
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


@dataclass
class _Meter:
    """Counts as the events go by."""

    opened: list[_Open] = field(default_factory=list)
    done: dict[str | None, tuple[int, int]] = field(default_factory=dict)
    """Anchor -> expanded weight and height of the finished node."""
    aliases: int = 0
    weight: int = 0

    def see(self, event: yaml.Event) -> str | None:
        """What this event makes wrong, if anything."""
        height = 0
        if isinstance(event, yaml.CollectionStartEvent):
            self.opened.append(_Open(event.anchor, self.weight))
            self.weight += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            node = self.opened.pop()
            height = node.height + 1
            self.done[node.anchor] = (self.weight - node.before, height)
        elif isinstance(event, yaml.ScalarEvent):
            cost = 1 + len(event.value) // 64
            self.weight += cost
            self.done[event.anchor] = (cost, 0)
        elif isinstance(event, yaml.AliasEvent):
            if any(node.anchor == event.anchor for node in self.opened):
                return f"alias `*{event.anchor}` contains itself"
            self.aliases += 1
            cost, height = self.done.get(event.anchor, (1, 0))
            self.weight += cost
        if self.opened:
            self.opened[-1].height = max(self.opened[-1].height, height)
        return self._verdict(len(self.opened) + height)

    def _verdict(self, depth: int) -> str | None:
        if depth > MAX_DEPTH:
            return f"nesting deeper than {MAX_DEPTH} levels"
        if self.aliases > MAX_ALIASES:
            return f"more than {MAX_ALIASES} aliases"
        if self.weight > MAX_WEIGHT:
            return f"more than {MAX_WEIGHT} values once aliases are expanded"
        return None


def measure(text: str) -> Fault | None:
    """Refuse text that is too deep or expands too far. Raises `yaml.YAMLError` as the parser does.

    The size of the text is the reader's business: it need not be read to be refused.
    """
    meter = _Meter()
    for event in yaml.parse(text, Loader=PARSER):
        if wrong := meter.see(event):
            mark: Any = event.start_mark
            return Fault("LF109", wrong, line=mark.line + 1, column=mark.column + 1)
    return None
