"""Who reads a field: notes every access by name to a spec, or to a section as a plan holds it.

In: code that runs inside `Reads.noted()`. Out: `Reads.seen`, `(class, field)` -> the module that
read it first. What goes through every field, such as a fingerprint or saving, reads none of them:
only modules that use a value count, and `dict(section)` is no access by name.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import FrameType
from typing import Any

from llmforge.compiler.parse import section_spec
from llmforge.plan import Plan
from llmforge.schema import SCALARS, RunSpec, Spec
from llmforge.schema.data import Fields
from llmforge.schema.run import Scalars

Readers = dict[tuple[type[Spec], str], str]
"""Class and field -> the module that read it first."""

USERS = (
    "llmforge.build", "llmforge.run", "llmforge.stages", "llmforge.track", "llmforge.sources",
    "llmforge.compiler.facts",
)  # fmt: skip
"""Modules that carry out what a plan says, or look up what it names."""

SHOWING = ("llmforge.run.terminal", "llmforge.run.failures", "llmforge.stages.report")
"""Modules among these that only tell people what was set."""

PASSING_ON = {"name", "run_id", "run_folder"}
"""Properties of a plan that read for whoever asks."""


class Reads:
    """Which fields were read."""

    def __init__(self) -> None:
        self.seen: Readers = {}

    def note(self, cls: type[Spec], name: str, frame: FrameType) -> None:
        """One access, from the code of `frame`."""
        reader: FrameType | None = frame
        while reader and (_module(reader) == __name__ or _passes_on(reader)):
            reader = reader.f_back
        if reader and _module(reader).startswith(USERS) and _module(reader) not in SHOWING:
            self.seen.setdefault((cls, name), _module(reader))

    @contextmanager
    def noted(self) -> Iterator[None]:
        """Inside, accesses are noted."""
        dumped, reads = Spec.settings, self

        def of_spec(spec: Spec, name: str) -> Any:
            if not name.startswith("_") and name in type(spec).model_fields:
                cls = Scalars if type(spec) is RunSpec else type(spec)
                reads.note(cls, name, sys._getframe(1))
            return object.__getattribute__(spec, name)

        def of_plan(plan: Plan, name: str) -> Any:
            found = object.__getattribute__(plan, name)
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
        return _Section(found, Scalars, self)

    def section(self, cls: type[Spec], values: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a section, which note what is asked for."""
        return _Section(
            {
                name: self.section(Fields, value)
                if name in cls.model_fields and cls.model_fields[name].annotation is Fields
                else value
                for name, value in values.items()
            },
            cls,
            self,
        )


class _Section(dict[str, Any]):
    """Values by name."""

    def __init__(self, values: Mapping[str, Any], cls: type[Spec], reads: Reads) -> None:
        super().__init__(values)
        self._cls, self._reads = cls, reads

    def __getitem__(self, name: str) -> Any:
        return self._noted(name, sys._getframe(1), super().__getitem__(name))

    def get(self, name: str, default: Any = None) -> Any:
        return self._noted(name, sys._getframe(1), super().get(name, default))

    def _noted(self, name: str, frame: FrameType, value: Any) -> Any:
        if name in self._cls.model_fields:
            self._reads.note(self._cls, name, frame)
        return value


def _module(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", ""))


def _passes_on(frame: FrameType) -> bool:
    return _module(frame) == "llmforge.plan" and frame.f_code.co_name in PASSING_ON
