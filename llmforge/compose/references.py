"""What the interpolations of a composition refer to.

In: the raw values, interpolations still text. Out: dotted keys from the top, or None when an
interpolation calls a resolver or is built of others, so that what it reads cannot be told.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_SIMPLE = re.compile(r"\$\{(\.*)([A-Za-z_][\w.\-]*)\}")


def references(raw: Mapping[str, Any]) -> frozenset[str] | None:
    """Keys that other keys read."""
    found = set()
    for path, text in _texts(raw, ()):
        if text.count("${") != len(simple := _SIMPLE.findall(text)):
            return None
        for dots, name in simple:
            # one dot is the mapping that the key stands in, each further one its parent
            start = path[: len(path) - len(dots)] if dots else ()
            found.add(".".join((*start, name)))
    return frozenset(found)


def _texts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, str):
        if "${" in value:
            yield path, value
    elif isinstance(value, Mapping):
        for key, below in value.items():
            yield from _texts(below, (*path, str(key)))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from _texts(below, (*path, str(index)))
