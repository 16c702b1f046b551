"""Who reads a field: notes every access by name to a spec, or to a section as a plan holds it.

In: code that runs inside `Reads.noted()`. Out: `Reads.seen`, `(class, field)` -> the module that
read it first. What goes through every field, such as a fingerprint or saving, reads none of them:
only modules that use a value count, and `dict(section)` is no access by name.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from llmforge.plan import Plan
from llmforge.schema import SCALARS, RunSpec, Spec
from llmforge.schema.data import Fields
from llmforge.schema.run import Scalars
from llmforge.schema.typed import section_spec

Readers = dict[tuple[type[Spec], str], str]
"""Class and field -> the module that read it first."""

USERS = (
    "llmforge.build", "llmforge.run", "llmforge.stages", "llmforge.track", "llmforge.sources",
    "llmforge.compiler.facts",
)  # fmt: skip
"""Modules that carry out what a plan says, or look up what it names."""

SHOWING = (
    *("llmforge.run.terminal", "llmforge.run.failures", "llmforge.run.card"),
    "llmforge.stages.report",
)
"""Modules among these that only tell people what was set."""

PASSING_ON = {"name", "run_id", "run_folder"}
"""Properties of a plan that read for whoever asks."""


class Reads:
    """Which fields were read."""

    def __init__(self) -> None:
        self.seen: Readers = {}
        self.lowered: set[str] = set()
        """Parts of the lowered keywords that were read, and single ones: `clipping.value`."""

    def note(self, cls: type[Spec], name: str, frame: FrameType) -> None:
        """One access, from the code of `frame`."""
        if name in cls.model_fields and (user := _user(frame)):
            self.seen.setdefault((cls, name), user)

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, accesses are noted."""
        dumped, reads = Spec.settings, self

        def of_spec(spec: Spec, name: str) -> Any:
            if not name.startswith("_"):
                cls = Scalars if type(spec) is RunSpec else type(spec)
                reads.note(cls, name, sys._getframe(1))
            return object.__getattribute__(spec, name)

        def of_plan(plan: Plan, name: str) -> Any:
            found = object.__getattribute__(plan, name)
            if name == "lowered":
                return reads.keywords(found)
            return reads.settings(found) if name == "settings" else found

        def settings(spec: Spec) -> dict[str, Any]:
            return reads.section(type(spec), dumped(spec))

        patches: tuple[tuple[type, str, Any], ...] = (
            (Spec, "__getattribute__", of_spec),
            (Plan, "__getattribute__", of_plan),
            (Spec, "settings", settings),
        )
        for owner, name, function in patches:
            setattr(owner, name, function)
        try:
            yield
        finally:
            del Spec.__getattribute__, Plan.__getattribute__
            Spec.settings = dumped  # type: ignore[method-assign]

    def settings(self, values: Mapping[str, Any]) -> dict[str, Any]:
        """A plan's settings whose sections note what is asked for."""
        found = {}
        for section, given in values.items():
            cls = None if section in SCALARS else section_spec(section, given)
            found[section] = given if cls is None else self.section(cls, given)
        return _Noting(found, functools.partial(self.note, Scalars))

    def section(self, cls: type[Spec], values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a section, which note what is asked for."""
        found = {
            name: self.section(Fields, value)
            if name in cls.model_fields and cls.model_fields[name].annotation is Fields
            else value
            for name, value in values.items()
        }
        return _Noting(found, functools.partial(self.note, cls))

    def keywords(self, lowered: Mapping[str, Any], part: str = "") -> dict[str, Any]:
        """A plan's lowered keywords, which note what is asked for."""

        def note(name: str, frame: FrameType) -> None:
            if _user(frame):
                self.lowered.add(f"{part}{name}")

        found = dict(lowered)
        if not part:
            inner = {name: value for name, value in found.items() if isinstance(value, dict)}
            found |= {name: self.keywords(value, f"{name}.") for name, value in inner.items()}
        return _Noting(found, note)


class _Noting(dict[str, Any]):
    """Values by name; who asks for one is told to `note`."""

    def __init__(self, values: Mapping[str, Any], note: Callable[[str, FrameType], None]) -> None:
        super().__init__(values)
        self._note = note

    def __getitem__(self, name: str) -> Any:
        self._note(name, sys._getframe(1))
        return super().__getitem__(name)

    def get(self, name: str, default: Any = None) -> Any:
        self._note(name, sys._getframe(1))
        return super().get(name, default)


def _user(frame: FrameType) -> str | None:
    """The module that makes use of what code in `frame` reads; None where nobody does."""
    reader: FrameType | None = frame
    while reader and (_module(reader) == __name__ or _passes_on(reader)):
        reader = reader.f_back
    module = _module(reader) if reader else ""
    return module if module.startswith(USERS) and module not in SHOWING else None


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _passes_on(frame: FrameType) -> bool:
    return _module(frame) == "llmforge.plan" and frame.f_code.co_name in PASSING_ON
