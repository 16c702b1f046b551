"""Which fields there are, and which other values each may have.

In: the schema and the registry. Out: `fields()`, one `Field` per field of every section and kind;
`candidates`, other values for one. What follows from a change is `dead_key_effects.py`.
"""

from __future__ import annotations

import types
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from llmforge import registry
from llmforge.schema import SECTIONS, SINGLE, Spec
from llmforge.schema.data import Fields
from llmforge.schema.run import Scalars


@dataclass(frozen=True)
class Field:
    """One field of one kind."""

    section: str
    """Empty for values of the whole run."""
    kind: str | None
    """None for sections of one shape."""
    key: str
    """Dotted: `data.fields.prompt`."""
    cls: type[Spec]
    """The class as it is registered; for the names of columns, `Fields`."""
    name: str

    @property
    def annotation(self) -> Any:
        return self.cls.model_fields[self.name].annotation

    @property
    def owner(self) -> type:
        """The class that brings the field in: `Rows` for `data.shuffle` of every kind."""
        return next(c for c in reversed(self.cls.__mro__) if self.name in _annotated(c))

    @property
    def own(self) -> str:
        """`Rows.shuffle`."""
        return f"{self.owner.__name__}.{self.name}"

    @property
    def full(self) -> str:
        """`data.shuffle (csv)`."""
        return f"{self.key} ({self.kind})" if self.kind else self.key

    @property
    def fixed(self) -> bool:
        """Does its type allow one value only, as that of `kind`?"""
        return get_origin(self.annotation) is Literal and len(get_args(self.annotation)) == 1


def _annotated(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = vars(cls).get("__annotations__", {})
    return found


def fields() -> Iterator[Field]:
    """Every field that can be changed, of every section and kind."""
    found: list[tuple[str, str | None, type[Spec]]] = [("", None, Scalars)]
    found += [(section, None, cls) for section, cls in SINGLE.items()]
    for section in SECTIONS:
        known = registry.kinds(section).items()
        found += [(section, kind, component.spec) for kind, component in known]
    for section, kind, cls in found:
        for name, info in cls.model_fields.items():
            key = f"{section}.{name}".removeprefix(".")
            if info.annotation is Fields:
                inner = (Field(section, kind, f"{key}.{each}", Fields, each)
                         for each in Fields.model_fields)  # fmt: skip
                yield from inner
                continue
            field = Field(section, kind, key, cls, name)
            if name != "kind" and not field.fixed:
                yield field


def candidates(annotation: Any, value: Any, given: list[Any]) -> list[Any]:
    """Other values of a field's type, those `given` first; not all of them need be legal."""
    found: list[Any] = []
    for each in (*given, *_of_type(annotation, value)):
        known = any(each == other and type(each) is type(other) for other in (value, *found))
        if not known:
            found.append(each)
    return found


def _of_type(annotation: Any, value: Any) -> Iterator[Any]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _of_type(get_args(annotation)[0], value)
    elif origin in (Union, types.UnionType):
        for each in get_args(annotation):
            yield from _of_type(each, value)
    elif origin is Literal:
        yield from get_args(annotation)
    elif annotation is type(None):
        yield None
    elif annotation is bool:
        yield from (True, False)
    elif annotation is int:
        now = value if isinstance(value, int) else 3
        yield from (now * 2, now + 1, max(1, now // 2), 64)
    elif annotation is float:
        rate = float(value) if isinstance(value, float | int) else 0.25
        yield from (rate / 2, rate * 2, rate + 0.125, 0.5)
    elif annotation is str:
        yield from ("another", "env:ANOTHER", "25%", "3GB")
