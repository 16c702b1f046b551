"""Keys whose value is a mapping of the user's own names.

In: nothing but the registered specs. Out: the dotted keys that the schema types as a mapping
(`data.roles`, `model.shape`), which an override may extend by names that no file has.

It checks no values, and knows nothing of sections inside such a mapping.
"""

from __future__ import annotations

from collections.abc import Iterator
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

from llmforge import registry
from llmforge.schema import SINGLE
from llmforge.schema.base import Spec
from llmforge.schema.extension import NAMED


def mapping_above(key: str) -> str | None:
    """The mapping that `key` is, or is a name of; None where every name is the schema's.

    Below a mapping of anything any depth counts (`model.shape.rope.theta`), below another one name
    (`data.roles.bot`). A key counts when any kind of its section has such a field.
    """
    section = key.partition(".")[0]
    if section in (*NAMED, "hooks"):  # what stands there is described by people's own plugins
        return section
    for name, of_anything in _mappings(key.partition(".")[0]):
        deeper = key.count(".") - name.count(".")
        if f"{key}.".startswith(f"{name}.") and (of_anything or deeper <= 1):
            return name
    return None


def _mappings(section: str) -> Iterator[tuple[str, bool]]:
    """Key of every mapping of a section, and whether anything may stand in it."""
    if section in SINGLE:
        yield from _of_spec(SINGLE[section], section)
    for component in registry.kinds(section).values():
        yield from _of_spec(component.spec, section)


def _of_spec(spec: type[Spec], prefix: str) -> Iterator[tuple[str, bool]]:
    for name, field in spec.model_fields.items():
        for annotation in _alternatives(field.annotation):
            if get_origin(annotation) is dict:
                yield f"{prefix}.{name}", get_args(annotation)[1] is Any
            elif isinstance(annotation, type) and issubclass(annotation, Spec):
                yield from _of_spec(annotation, f"{prefix}.{name}")


def _alternatives(annotation: Any) -> Iterator[Any]:
    """The types of a union, however it is written; a plain type is its only one."""
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _alternatives(get_args(annotation)[0])
    elif origin in (Union, UnionType):
        for one in get_args(annotation):
            yield from _alternatives(one)
    else:
        yield annotation
