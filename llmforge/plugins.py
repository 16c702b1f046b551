"""Code of the user's own: modules named in `plugins`, imported for what they register.

In: names of modules, from the settings. Out: findings LF121, and LF122 to LF125 for a component
that cannot be registered as it is; the registries are filled on the way.
A module is looked for in the working folder too, but only after everything that is installed, and
only while plugins are loaded: a `random.py` lying there is never Python's own. Packages that
declare the entry-point group `llmforge.components` are loaded without being named.

This module does not know what a plugin registers (`registry.py`, `sources/functions.py` do).
"""

from __future__ import annotations

import importlib.util
import os
import pkgutil
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from llmforge.diagnostics import Diagnostic, Severity, did_you_mean, near
from llmforge.installed import entry_points
from llmforge.registry import RegistrationRefused, working_folder

GROUP = "llmforge.components"

_DOTTED = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
_OWN = str(Path(__file__).parent) + os.sep

_loaded: dict[str, None] = {}


def load(modules: Sequence[str]) -> list[Diagnostic]:
    """Import the modules of the setting `plugins`, and what installed packages declare.

    Loading a module that was loaded before does nothing. Output of the modules goes where it goes.

    Returns:
        One error (LF121, or the registry's own code) for each module that cannot be imported, one
        warning for each entry point that cannot. Nothing is raised for what a module does wrong.
    """
    found: list[Diagnostic] = []
    with working_folder():
        for name in modules:
            problem = _load_one(name)
            if problem is None:
                _loaded[name] = None
            else:
                found.append(problem)
        return found + _load_entry_points()


def loaded() -> tuple[str, ...]:
    """Names of the modules that `load` imported in this process, for processes started from it."""
    return tuple(_loaded)


def raised_at(error: BaseException) -> str:
    """What user code raised, and where: `ValueError: no such row (my_data.py:12)`, in one line.

    The place is the last one outside of this package and of what is installed, where there is one:
    a user mends their own line, not the library's that it called.
    """
    words = "".join(traceback.format_exception_only(error)).strip().splitlines()
    said = words[-1] if words else type(error).__name__
    if isinstance(error, SyntaxError) and error.filename:
        return f"{said} ({_short(error.filename)}:{error.lineno or 1})"
    frames = traceback.extract_tb(error.__traceback__)
    outside = [f for f in frames if not f.filename.startswith((_OWN, "<frozen"))]
    own = [f for f in outside if not _is_installed(f.filename)]
    if not outside:
        return said
    last = (own or outside)[-1]
    return f"{said} ({_short(last.filename)}:{last.lineno})"


def _load_one(name: str) -> Diagnostic | None:
    if not _DOTTED.fullmatch(name) or name.endswith(".py"):
        return _not_a_name(name)
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and f"{name}.".startswith(f"{error.name}."):
            return _not_found(name, error.name)
        return _raised(f"plugin `{name}` cannot be imported", error)
    except RegistrationRefused as error:
        return _refused(name, error)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        return _raised(f"plugin `{name}` cannot be imported", error)
    return _hidden(name, module)


def _not_a_name(name: str) -> Diagnostic:
    dotted = ".".join(Path(name.removesuffix(".py")).parts)
    return Diagnostic(
        "LF121",
        f"`{name}` is not the name of a module",
        key="plugins",
        notes=("a plugin is named as in an import: letters, digits, underscores and dots",),
        hint=f"plugins=[{dotted}]" if _DOTTED.fullmatch(dotted) else None,
    )


def _not_found(name: str, missing: str) -> Diagnostic:
    parent, _, last = missing.rpartition(".")
    siblings = _siblings(parent)
    guess = near(last, siblings, limit=1)
    meant = ".".join(filter(None, [parent, *guess])) + name[len(missing) :] if guess else None
    notes = did_you_mean(last, siblings)
    return Diagnostic(
        "LF121",
        f"plugin `{name}` was not found: there is no module `{missing}`",
        key="plugins",
        notes=(*notes, f"looked in {Path.cwd()}, in PYTHONPATH and among installed packages"),
        hint=f"plugins=[{meant}]" if meant else None,
    )


def _siblings(parent: str) -> list[str]:
    """Modules that stand where a missing one was looked for: in its package, or in this folder."""
    if not parent:
        folders = [str(Path.cwd()), *filter(None, os.environ.get("PYTHONPATH", "").split(":"))]
        return [found.name for found in pkgutil.iter_modules(folders)]
    package = sys.modules.get(parent)
    return [found.name for found in pkgutil.iter_modules(getattr(package, "__path__", []))]


def _raised(what: str, error: BaseException, severity: Severity = Severity.ERROR) -> Diagnostic:
    return Diagnostic("LF121", f"{what}: {raised_at(error)}", severity=severity, key="plugins")


def _refused(name: str, error: RegistrationRefused) -> Diagnostic:
    """What a module registers and cannot: the registry's words, and the line that asked for it."""
    meant = did_you_mean(error.candidates[0], error.candidates[1:]) if error.candidates else ()
    listed = (f"known here: {', '.join(error.candidates[1:])}",) if error.candidates else ()
    said = raised_at(error).partition(": ")[2]
    return Diagnostic(
        error.code, f"plugin `{name}`: {said}", key="plugins", notes=(*meant, *listed)
    )


def _hidden(name: str, module: ModuleType) -> Diagnostic | None:
    """A module of the working folder that another one of the same name stands before."""
    top = name.partition(".")[0]
    here = [path for path in (Path(f"{top}.py"), Path(top, "__init__.py")) if path.is_file()]
    package = sys.modules[top]
    source = getattr(package, "__file__", None)
    if not here or (source and any(path.resolve() == Path(source).resolve() for path in here)):
        return None
    return Diagnostic(
        "LF121",
        f"plugin `{name}` is not the one in this folder: {module.__name__} came from "
        f"{source or 'Python itself'}",
        key="plugins",
        notes=("installed modules come first, so that no file here can stand in for Python's own",),
        hint=f"rename {here[0]}",
    )


def _load_entry_points() -> list[Diagnostic]:
    found = []
    for point in entry_points(GROUP):
        try:
            point.load()
        except (Exception, SystemExit) as error:  # so may what is installed
            owner = point.dist.name if point.dist else "an installed package"
            what = f"`{point.value}` of {owner} cannot be loaded"
            found.append(_raised(what, error, Severity.WARNING))
    return found


def _is_installed(file: str) -> bool:
    parts = Path(file).parts
    library = Path(os.__file__).parent
    return bool({"site-packages", "dist-packages"} & set(parts)) or Path(file).is_relative_to(
        library
    )


def _short(file: str) -> str:
    path = Path(file)
    here = Path.cwd()
    return path.relative_to(here).as_posix() if path.is_relative_to(here) else str(path)


def source_of(module: str) -> Path | None:
    """The source file of a module, which is not imported, though the packages above it are.

    None for what has no source: a built-in module, a compiled one.

    Raises:
        ModuleNotFoundError: there is no such module, nor in the working folder.
    """
    with working_folder():
        found = importlib.util.find_spec(module)
    if found is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    origin = found.origin
    return Path(origin) if origin and origin.endswith(".py") and Path(origin).is_file() else None


def load_or_fail(modules: Sequence[str]) -> None:
    """Import plugins in a process that runs a plan: they could be imported when it was made.

    Raises:
        ImportError: one of them cannot be imported here.
    """
    errors = [finding for finding in load(modules) if finding.is_error]
    if errors:
        raise ImportError("; ".join(finding.message for finding in errors))
