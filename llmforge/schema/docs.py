"""The docstrings under schema fields, read when somebody asks for them.

In: a spec class and a path. Out: the text under the field, and its type in plain words. Reading
them lazily from the source keeps the schema quick to import.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from llmforge.schema.base import Spec


@cache
def docs_of(spec: type[Spec]) -> dict[str, str]:
    """Field name -> docstring, for one class and those it inherits from."""
    found: dict[str, str] = {}
    for cls in reversed(spec.__mro__):
        if not (issubclass(cls, Spec) and cls is not Spec):
            continue
        body = ast.parse(textwrap.dedent(inspect.getsource(cls))).body[0]
        assert isinstance(body, ast.ClassDef)  # noqa: S101 - the source of a class
        for item, after in zip(body.body, body.body[1:], strict=False):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(item.target, ast.Name)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
                and isinstance(after.value.value, str)
            ):
                found[item.target.id] = " ".join(inspect.cleandoc(after.value.value).split())
    return found


def _walk(spec: type[Spec], path: Sequence[str]) -> tuple[type[Spec], str] | None:
    """The class and field a path ends at."""
    here = spec
    for index, name in enumerate(path):
        if name not in here.model_fields:
            return None
        nested = here.model_fields[name].annotation
        if index == len(path) - 1:
            return here, name
        if not (isinstance(nested, type) and issubclass(nested, Spec)):
            return here, name
        here = nested
    return None


def field_doc(spec: type[Spec], path: Sequence[str]) -> str:
    """The docstring of the field at a path; empty when it has none."""
    found = _walk(spec, path)
    if found is None:
        return ""
    cls, name = found
    if name == "kind":
        return f"Which component this section is: {cls.__doc__ or ''}".strip()
    return docs_of(cls).get(name, "")


def field_type(spec: type[Spec], path: Sequence[str]) -> str:
    """What the field at a path takes, in plain words."""
    found = _walk(spec, path)
    if found is None:
        return "anything"
    info = found[0].model_fields[found[1]]
    bounds = [_bound(item) for item in info.metadata]
    return " ".join([_words(info.annotation), *[bound for bound in bounds if bound]])


@dataclass(frozen=True)
class Numbers:
    """Which numbers a field takes."""

    types: frozenset[type]
    """`int`, `float`, or both; `object` for a field that takes anything; empty for none."""
    low: float | None = None
    low_included: bool = True
    high: float | None = None
    high_included: bool = True


def field_numbers(spec: type[Spec], path: Sequence[str]) -> Numbers | None:
    """What the field at a path takes of numbers; None where there is no such field."""
    found = _walk(spec, path)
    if found is None:
        return None
    info = found[0].model_fields[found[1]]
    mapped = get_origin(info.annotation) is dict and found[1] != path[-1]
    annotation = get_args(info.annotation)[1] if mapped else info.annotation
    parts = list(_parts(annotation, info.metadata))
    types = {part if part in (int, float) else object for part, _ in parts
             if part in (int, float, Any, object)}  # fmt: skip
    limits: dict[str, float] = {}
    for part, metadata in parts:
        if part in (int, float):
            for item in metadata:
                for name in ("ge", "gt", "le", "lt"):
                    value = getattr(item, name, None)
                    if value is not None:
                        limits[name] = value
    return Numbers(
        frozenset(types),
        limits.get("ge", limits.get("gt")),
        "gt" not in limits,
        limits.get("le", limits.get("lt")),
        "lt" not in limits,
    )


def _parts(annotation: Any, metadata: Sequence[Any]) -> Iterator[tuple[Any, list[Any]]]:
    """The plain types of an annotation, each with what it is bound by."""
    origin = get_origin(annotation)
    if origin is Annotated:
        first, *rest = get_args(annotation)
        more = [m for item in rest for m in getattr(item, "metadata", [item])]
        yield from _parts(first, [*metadata, *more])
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _parts(part, metadata)
    else:
        yield annotation, [m for item in metadata for m in getattr(item, "metadata", [item])]


def _words(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        first, *rest = get_args(annotation)
        inner = [_bound(m) for item in rest for m in getattr(item, "metadata", [item])]
        return " ".join([_words(first), *[bound for bound in inner if bound]])
    if origin is Literal:
        return " or ".join(f"`{choice}`" for choice in get_args(annotation))
    if origin in (Union, types.UnionType):
        return " or ".join(_words(part) for part in get_args(annotation))
    if origin is list:
        return f"list of {_words(get_args(annotation)[0])}"
    names = {
        int: "whole number", float: "number", str: "text", bool: "true or false",
        type(None): "null",
    }  # fmt: skip
    return names.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _bound(item: Any) -> str:
    for attribute, word in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
        value = getattr(item, attribute, None)
        if value is not None:
            return f"{word} {value:g}"
    return ""
