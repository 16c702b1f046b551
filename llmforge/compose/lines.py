"""Lines of the keys of a JSON or YAML text.

In: the text. Out: dotted keys with the line each stands in. Values are not read and nothing raises:
a text that YAML cannot read has no lines.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml


def key_lines(text: str) -> dict[str, int]:
    """Dotted key -> line, counted from 1."""
    try:
        # JSON is YAML but for tabs, and YAML's reader remembers where it was
        root = yaml.compose(text.replace("\t", " "), Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return {}
    return dict(_below(root, ""))


def _below(node: Any, prefix: str) -> Iterator[tuple[str, int]]:
    if not isinstance(node, yaml.MappingNode):
        return
    for key, value in node.value:
        name = f"{prefix}{key.value}"
        yield name, key.start_mark.line + 1
        yield from _below(value, f"{name}.")
