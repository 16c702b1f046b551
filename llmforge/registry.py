"""Which components exist: (section, kind) -> schema class and lazy builder reference.

In: `register` calls made by the schema modules (and by anyone who extends llmforge). Out:
lookups by section and kind. A builder is a text, `"package.module:name"`, imported in the worker
only, so that registering a component never imports torch.

This module does not validate values and does not build anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from llmforge.schema.base import Spec

S = TypeVar("S", bound="type[Spec]")


@dataclass(frozen=True)
class Component:
    """One named choice of one section."""

    section: str
    kind: str
    spec: type[Spec]
    builder: str | None = None

    def load_builder(self) -> Callable[..., Any]:
        """Import the builder; call this in a worker only."""
        if self.builder is None:
            raise LookupError(f"{self.section} kind `{self.kind}` has nothing to build")
        module, _, name = self.builder.partition(":")
        found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


_components: dict[str, dict[str, Component]] = {}


def register(
    section: str, kind: str, builder: str | None = None, override: bool = False
) -> Callable[[S], S]:
    """Class decorator: make `spec` the schema of `section` when its `kind` is `kind`.

    Raises:
        ValueError: the kind is taken and `override` is not set.
    """

    def add(spec: S) -> S:
        known = _components.setdefault(section, {})
        if kind in known and not override:
            raise ValueError(f"{section} kind `{kind}` is already registered by {known[kind].spec}")
        known[kind] = Component(section, kind, spec, builder)
        return spec

    return add


def component(section: str, kind: str) -> Component:
    """The component registered under `section` and `kind`; KeyError if there is none."""
    return _components[section][kind]


def kinds(section: str) -> dict[str, Component]:
    """All components of a section by kind, in the order of registration."""
    return dict(_components.get(section, {}))
