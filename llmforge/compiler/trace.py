"""A spec that notes which keys are read: the truth behind `explain`'s "read by".

In: a spec. Out: a stand-in with the same types and values, and the set of dotted keys that were
read through it.
"""

from __future__ import annotations

from typing import Any, TypeVar, cast

from llmforge.schema import Spec

S = TypeVar("S", bound=Spec)


def traced(spec: S) -> tuple[S, set[str]]:
    """A stand-in for `spec`, and the growing set of keys read from it."""
    seen: set[str] = set()
    return cast("S", _Traced(spec, "", seen)), seen


def untraced(spec: S) -> S:
    """The spec itself, for what goes through all of it, such as a fingerprint, and so says nothing
    about who reads a key."""
    kind: type = type(spec)
    if kind is _Traced:
        found: S = object.__getattribute__(spec, "_state")[0]
        return found
    return spec


class _Traced:
    """Passes for the spec it wraps, `isinstance` included."""

    def __init__(self, spec: Spec, prefix: str, seen: set[str]) -> None:
        object.__setattr__(self, "_state", (spec, prefix, seen))

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return type(object.__getattribute__(self, "_state")[0])

    def __getattr__(self, name: str) -> Any:
        spec, prefix, seen = object.__getattribute__(self, "_state")
        value = getattr(spec, name)
        if isinstance(value, Spec):
            return _Traced(value, f"{prefix}{name}.", seen)
        if name in type(spec).model_fields:
            seen.add(f"{prefix}{name}")
        return value
