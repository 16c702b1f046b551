"""What an Arrow value becomes: the JSON value that a row holds in its place.

In: an Arrow type. Out: `converter`, a function from what pyarrow makes of a value to JSON. Keys
that hold null are left out of structs, because Arrow writes every key into each of them. Dates,
times and decimals become text; NaN and infinity become null; binary values have nothing that they
could become. Files are read in `tables.py`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa  # type: ignore[import-untyped]  # it ships no types

Convert = Callable[[Any], Any]


class Binary(Exception):
    """A type that has no value in JSON."""


def same(value: Any) -> Any:
    """For types whose values are JSON as they are."""
    return value


def _number(value: Any) -> Any:
    return None if value is None or not math.isfinite(value) else value


def _text(value: Any) -> Any:
    return None if value is None else str(value)


def _json(value: Any) -> Any:
    return None if value is None else json.loads(value)


def converter(kind: pa.DataType) -> Convert:
    """How a value of an Arrow type, as pyarrow gives it, becomes a JSON value.

    Raises:
        Binary: it cannot.
    """
    from pyarrow import types

    if types.is_dictionary(kind) or types.is_run_end_encoded(kind):
        return converter(kind.value_type)
    if getattr(kind, "extension_name", None) == "arrow.json":
        return _json
    if hasattr(kind, "storage_type"):  # another extension, read as what it is stored as
        return converter(kind.storage_type)
    if types.is_null(kind) or types.is_boolean(kind) or types.is_integer(kind) or _is_text(kind):
        return same
    if types.is_floating(kind):
        return _number
    if types.is_map(kind):
        return _map(converter(kind.item_type))
    if types.is_struct(kind):
        return _struct(kind)
    if types.is_nested(kind) and hasattr(kind, "value_type"):
        return _list(converter(kind.value_type))
    if types.is_binary(kind) or "binary" in str(kind) or types.is_union(kind):
        raise Binary
    return _text


def _is_text(kind: pa.DataType) -> bool:
    from pyarrow import types

    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _list(member: Convert) -> Convert:
    if member is same:
        return same
    return lambda value: None if value is None else [member(each) for each in value]


def _map(member: Convert) -> Convert:
    def convert(pairs: list[tuple[Any, Any]] | None) -> dict[str, Any] | None:
        if pairs is None:
            return None
        made = {str(key): member(value) for key, value in pairs}
        if len(made) != len(pairs):
            raise ValueError("a map gives a key twice")
        return made

    return convert


def _struct(kind: pa.DataType) -> Convert:
    members: dict[str, Convert] = {}
    for field in kind:
        try:
            members[field.name] = converter(field.type)
        except Binary:
            continue
    if not members and len(list(kind)):
        raise Binary

    def convert(value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is None:
            return None
        return {
            key: member(value[key]) for key, member in members.items() if value[key] is not None
        }

    return convert
