"""Which components exist: (section, kind) -> schema class and lazy builder reference.

In: `register` calls made by the schema modules and by people's own packages (`llmforge.register`).
Out: lookups by section and kind. A builder is a text, `"package.module:name"`, imported in the
worker only, so that registering a component never imports torch. What cannot work is refused where
it is registered, with the code that `plugins.load` tells: an unknown section, a name that is taken,
a spec of another section, a builder that is missing or no reference.

This module does not validate values and does not build anything. Whether a builder is there, and
of the right class, is looked at in `compiler/facts/components.py` and again in the worker.
"""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from llmforge.schema.base import Spec

S = TypeVar("S", bound="type[Spec]")

OPEN: dict[str, tuple[str, str]] = {
    "callback": ("llmforge.schema.extension", "CallbackSpec"),
    "collator": ("llmforge.schema.collate", "CollatorSpec"),
    "hooks": ("llmforge.schema.experiment", "ExperimentSpec"),
    "metric": ("llmforge.schema.extension", "MetricSpec"),
    "optimizer": ("llmforge.schema.optim", "OptimizerSpec"),
    "trainer": ("llmforge.schema.train", "TrainerSpec"),
}
"""Where people may register components of their own -> the spec class to inherit from."""

ALIASES = {"experiment": "hooks"}
"""What is registered -> the section it is chosen in; `experiment` is the group of overlays."""

_KIND = re.compile(r"[A-Za-z_][\w.-]*")
_BUILDER = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


class RegistrationRefused(ValueError):
    """A component that cannot be registered as it is."""

    def __init__(self, code: str, message: str, candidates: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.code = code
        """LF122 to LF125."""
        self.candidates = candidates
        """What may have been meant: the first is the word that was used."""


@dataclass(frozen=True)
class Component:
    """One named choice of one section."""

    section: str
    kind: str
    spec: type[Spec]
    builder: str | None = None

    @property
    def is_own(self) -> bool:
        """Does it come from somebody's own package?"""
        return not _is_shipped(self.spec)

    def load_builder(self) -> Callable[..., Any]:
        """Import the builder; call this in a worker only.

        Raises:
            LookupError: it has none.
            ImportError, AttributeError: the reference leads nowhere.
        """
        if self.builder is None:
            raise LookupError(f"{self.section} kind `{self.kind}` has nothing to build")
        module, _, name = self.builder.partition(":")
        with working_folder():
            found: Callable[..., Any] = getattr(importlib.import_module(module), name)
        return found


_components: dict[str, dict[str, Component]] = {}


def register(
    section: str, kind: str, builder: str | None = None, override: bool = False
) -> Callable[[S], S]:
    """Class decorator: make `spec` the schema of `section` when its `kind` is `kind`.

    In a package of one's own:

        @llmforge.register("callback", "step_counter", "my_pkg.callbacks:StepCounter")
        class StepCounterSpec(llmforge.CallbackSpec):
            every: int

    Args:
        section: `callback`, `collator`, `experiment`, `metric`, `optimizer` or `trainer`; data set
            classes have a decorator of their own, `llmforge.dataset`.
        kind: the name it is chosen by.
        builder: `"package.module:name"`; imported in the worker, never while a plan is made.
        override: replace what has the name already.

    Raises:
        RegistrationRefused: a `ValueError`; LF122 for an unknown section or a name that is none,
            LF123 for a name that is taken, LF124 for a spec of another base class, LF125 for a
            builder that is missing or is no reference.
    """
    section = ALIASES.get(section, section)

    def add(spec: S) -> S:
        known = _components.setdefault(section, {}) if _is_shipped(spec) else _open(section)
        if not _is_shipped(spec):
            _check(section, kind, builder, spec)
        other = known.get(kind)
        # the same definition run again, after a plugin was mended, replaces itself
        again = other and not _is_shipped(spec) and _place(other.spec) == _place(spec)
        if other and not override and not again:
            raise RegistrationRefused(
                "LF123",
                f"{section} kind `{kind}` is already registered by {'.'.join(_place(other.spec))}; "
                "override=True replaces it",
            )
        known[kind] = Component(section, kind, spec, builder)
        return spec

    return add


def component(section: str, kind: str) -> Component:
    """The component registered under `section` and `kind`; KeyError if there is none."""
    return _components[section][kind]


def kinds(section: str) -> dict[str, Component]:
    """All components of a section by kind, in the order of registration."""
    return dict(_components.get(section, {}))


@contextmanager
def working_folder() -> Iterator[None]:
    """The working folder importable, last of all; the import path as it was afterwards.

    A `random.py` lying there is never Python's own, and nothing is imported from there by chance.
    """
    here = str(Path.cwd())
    importlib.invalidate_caches()  # a module written a moment ago must be found
    sys.path.append(here)
    try:
        yield
    finally:
        # from the end: the same folder may stand there on its own account
        for index in range(len(sys.path) - 1, -1, -1):
            if sys.path[index] == here:
                del sys.path[index]
                break


def _open(section: str) -> dict[str, Component]:
    if section not in OPEN:
        own = (name for name in OPEN if name not in ALIASES.values())
        names = (*own, *ALIASES, "dataset")
        more = (
            "; a data set class is registered by llmforge.dataset" if section == "dataset" else ""
        )
        raise RegistrationRefused(
            "LF122", f"nothing can be registered as `{section}`{more}", (section, *names)
        )
    return _components.setdefault(section, {})


def _check(section: str, kind: Any, builder: Any, spec: Any) -> None:
    if not isinstance(kind, str) or not _KIND.fullmatch(kind):
        raise RegistrationRefused(
            "LF122", f"{section} kind {kind!r:.60} is not letters, digits, underscores and dashes"
        )
    module, name = OPEN[section]
    base = getattr(importlib.import_module(module), name)
    if not (isinstance(spec, type) and issubclass(spec, base)):
        raise RegistrationRefused(
            "LF124",
            f"the spec of {section} kind `{kind}` must be a class that inherits from {name} "
            f"({module})",
        )
    if builder is None:
        raise RegistrationRefused("LF125", f"{section} kind `{kind}` has no builder")
    if not isinstance(builder, str) or not _BUILDER.fullmatch(builder):
        raise RegistrationRefused(
            "LF125",
            f"the builder of {section} kind `{kind}` is {builder!r:.60}, which is no reference "
            "such as `my_pkg.parts:MyPart`",
        )


def _is_shipped(spec: Any) -> bool:
    return str(getattr(spec, "__module__", "")).partition(".")[0] == "llmforge"


def _place(spec: type[Spec]) -> tuple[str, str]:
    return spec.__module__, spec.__qualname__
