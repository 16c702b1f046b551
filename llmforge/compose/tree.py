"""YAML nodes to plain values that remember their lines.

In: the node tree of one file. Out: `Entry` per key (value, line, entries below) and `Fault`s:
duplicate keys, keys and tags that a configuration cannot hold, interpolations that do not parse.
Everything is collected, nothing raises. It does not read files and does not know packages.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from omegaconf import AnyNode
from omegaconf.errors import OmegaConfBaseException

from llmforge.compose.limits import MAX_INTERPOLATION, PARSER, Fault

FORBIDDEN = frozenset({"_target_", "_recursive_", "_partial_", "_convert_", "_args_"})
"""Keys by which `hydra.utils.instantiate` would run code named in a file."""

MISSING = "???"
"""A value that somebody has to give."""

_TAG = "tag:yaml.org,2002:"
_SCALARS = frozenset(_TAG + name for name in ("str", "int", "float", "bool", "null"))
_MERGE = _TAG + "merge"


class Loader(PARSER):  # type: ignore[misc]
    """The scalar rules of OmegaConf: `1e-4` is a number, a date is text."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, rule) for tag, rule in rules if tag != _TAG + "timestamp"]
    for first, rules in PARSER.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver(
    _TAG + "float",
    re.compile(
        r"""^(?:
         [-+]?[0-9]+(?:_[0-9]+)*\.[0-9_]*(?:[eE][-+]?[0-9]+)?
        |[-+]?[0-9]+(?:_[0-9]+)*(?:[eE][-+]?[0-9]+)
        |\.[0-9]+(?:_[0-9]+)*(?:[eE][-+][0-9]+)?
        |[-+]?[0-9]+(?:_[0-9]+)*(?::[0-5]?[0-9])+\.[0-9_]*
        |[-+]?\.(?:inf|Inf|INF)
        |\.(?:nan|NaN|NAN))$""",
        re.VERBOSE,
    ),
    list("-+0123456789."),
)


@dataclass(frozen=True)
class Entry:
    """The value of one key and where the key stands."""

    value: Any
    """A scalar, a list of plain values, or `dict[key, Entry]`."""
    line: int | None = None

    @property
    def is_mapping(self) -> bool:
        """Whether there are keys below."""
        return isinstance(self.value, dict)

    def plain(self) -> Any:
        """The value without lines."""
        return plain(self.value) if isinstance(self.value, dict) else self.value


Tree = dict[Any, Entry]


def plain(tree: Mapping[Any, Entry]) -> dict[Any, Any]:
    """The tree as ordinary nested dicts."""
    return {key: entry.plain() for key, entry in tree.items()}


def lift(values: Mapping[Any, Any]) -> Tree:
    """Ordinary nested dicts as a tree without lines."""
    return {k: Entry(lift(v) if isinstance(v, Mapping) else v) for k, v in values.items()}


def forbidden(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of keys that would make Hydra run code, in mappings and in lists alike."""
    if isinstance(value, Entry):
        value = value.value
    if isinstance(value, Mapping):
        for key, below in value.items():
            if key in FORBIDDEN:
                yield (*path, key)
            yield from forbidden(below, (*path, key))
    elif isinstance(value, list):
        for index, below in enumerate(value):
            yield from forbidden(below, (*path, index))


def dotted(path: tuple[Any, ...], prefix: str = "") -> str:
    """`("a", 0, "b")` as `a.0.b`, below a package if one is given."""
    return ".".join([prefix, *map(str, path)] if prefix else map(str, path))


@dataclass
class Builder:
    """Builds one file's tree; `faults` fills up on the way."""

    loader: Any
    faults: list[Fault] = field(default_factory=list)

    def mapping(self, node: yaml.MappingNode, path: tuple[Any, ...] = ()) -> Tree:
        """A mapping node; `<<` merges come first, so that the mapping's own keys win."""
        merged: Tree = {}
        own: Tree = {}
        first_line: dict[Any, int] = {}
        for key_node, value_node in node.value:
            if key_node.tag == _MERGE:
                merged.update(self._merge(value_node, path))
                continue
            key = self._key(key_node, path)
            if key is None:
                continue
            line = key_node.start_mark.line + 1
            if key in first_line:
                note = f"line {first_line[key]} sets it first, line {line} sets it again"
                self._fault(key_node, (*path, key), "LF108", f"duplicate key `{key}`", note)
            first_line.setdefault(key, line)
            own[key] = Entry(self._value(value_node, (*path, key), nested=True), line)
        return {**merged, **own}

    def _merge(self, node: yaml.Node, path: tuple[Any, ...]) -> Tree:
        """What `<<: *base` or `<<: [*a, *b]` brings in; of a list, the earlier one wins."""
        parts = node.value if isinstance(node, yaml.SequenceNode) else [node]
        tree: Tree = {}
        for part in reversed(parts):
            if isinstance(part, yaml.MappingNode):
                tree.update(self.mapping(part, path))
            else:
                self._fault(part, path, "LF107", "`<<` takes a mapping or a list of mappings")
        return tree

    def _key(self, node: yaml.Node, path: tuple[Any, ...]) -> Any:
        value = self._scalar(node, path) if isinstance(node, yaml.ScalarNode) else None
        if value is None:
            self._fault(node, path, "LF107", "a key must be text or a number")
        return value

    def _value(self, node: yaml.Node, path: tuple[Any, ...], *, nested: bool) -> Any:
        """`nested`: mappings keep their lines (below mappings), else become plain (in lists)."""
        if isinstance(node, yaml.MappingNode) and node.tag == _TAG + "map":
            tree = self.mapping(node, path)
            return tree if nested else plain(tree)
        if isinstance(node, yaml.SequenceNode) and node.tag == _TAG + "seq":
            return [
                self._value(item, (*path, index), nested=False)
                for index, item in enumerate(node.value)
            ]
        if isinstance(node, yaml.ScalarNode):
            return self._scalar(node, path)
        self._fault(node, path, "LF107", f"tag `{_short(node.tag)}` is not allowed here")
        return None

    def _scalar(self, node: yaml.ScalarNode, path: tuple[Any, ...]) -> Any:
        if node.tag not in _SCALARS:
            self._fault(node, path, "LF107", f"tag `{_short(node.tag)}` is not allowed here")
            return None
        try:
            value = self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError, KeyError) as error:
            what = f"`{node.value[:40]}` is not a `{_short(node.tag)}`"
            self._fault(node, path, "LF107", what, str(error).splitlines()[0])
            return None
        if isinstance(value, str) and "${" in value and (why := unparsable(value)):
            code, message = why
            self._fault(node, path, code, message, value=value)
            return None
        return value

    def _fault(
        self,
        node: yaml.Node,
        path: tuple[Any, ...],
        code: str,
        message: str,
        *notes: str,
        value: Any = None,
    ) -> None:
        mark = node.start_mark
        fault = Fault(code, message, path, mark.line + 1, mark.column + 1, notes, value=value)
        self.faults.append(fault)


def unparsable(text: str) -> tuple[str, str] | None:
    """Code and message when OmegaConf's grammar cannot read an interpolation."""
    if len(text) > MAX_INTERPOLATION:
        return "LF109", f"interpolation longer than {MAX_INTERPOLATION} characters"
    try:
        AnyNode(text)
    except (OmegaConfBaseException, RecursionError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        return "LF106", f"interpolation does not parse: {reason[:120]}"
    return None


def _short(tag: str) -> str:
    return "!!" + tag.removeprefix(_TAG) if tag.startswith(_TAG) else tag
