"""Functions and classes of the user's own that settings name: transforms and data set classes.

In: what the decorators `transform` and `dataset` are put on, in modules named in `plugins`. Out:
the function or class behind a name, and its identity for fingerprints. What cannot work (another
base class, another signature, a name that is taken) is refused where it is registered, with a
`ValueError` that `plugins.load` tells with its line.

This module calls none of them: `flow.py` calls transforms, `classes.py` data set classes.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from llmforge.diagnostics import near
from llmforge.sources.base import Fault, Unusable

Transform = Callable[[dict[str, Any]], dict[str, Any] | list[dict[str, Any]] | None]
F = TypeVar("F", bound=Callable[..., Any])
D = TypeVar("D", bound="type[BaseDataset]")

_NAME = re.compile(r"[A-Za-z_][\w.-]*")


class BaseDataset:
    """What a data set class inherits from. `get_data` must be written, `get_sample` may be.

        @llmforge.dataset("questions")
        class Questions(llmforge.BaseDataset):
            @classmethod
            def get_data(cls, folder: str):
                return [("2 + 2", "4"), ("3 + 3", "6")], None

            def get_sample(self, index):
                question, answer = self.data[index]
                return {"prompt": question, "completion": answer}

    Rows are made when a plan is compiled, and kept; training never runs this code.
    """

    must_have_keys: ClassVar[tuple[str, ...]] = ()
    """Keys that every sample must have; a sample without one refuses the plan."""

    def __init__(self, data: Sequence[Any]) -> None:
        """`data` is one of the two lists that `get_data` gave."""
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    @classmethod
    def get_data(cls, **options: Any) -> tuple[list[Any], list[Any] | None] | None:
        """The items of the training set, and those of the evaluation set or None.

        Args:
            options: `data.options` of the settings.
        """
        raise NotImplementedError(f"{cls.__name__} has no get_data")

    def get_sample(self, index: int) -> dict[str, Any]:
        """The row of the item at `index`, from 0: columns by name. As it stands if not written."""
        found: dict[str, Any] = self.data[index]
        return found


_transforms: dict[str, Transform] = {}
_datasets: dict[str, type[BaseDataset]] = {}
_digests: dict[tuple[str, str], str] = {}
"""Module and name of what was registered -> digest of the module's source at that time."""


def transform(name: str, override: bool = False) -> Callable[[F], F]:
    """Decorator: make a function known as `data.transform=<name>`.

    The function is given one row, columns by name, and returns a row, a list of rows, or None to
    leave the row out. It may change the row that it is given. It must not depend on anything but
    that row: the compiler and the worker both call it and must get the same.

    Raises:
        ValueError: no usable name, the name is taken and `override` is not set, or the function
            does not take exactly one row.
    """
    _check_name("transform", name)

    def add(function: F) -> F:
        _check_transform(name, function)
        _add("transform", _transforms, name, function, override)
        return function

    return add


def dataset(name: str, override: bool = False) -> Callable[[D], D]:
    """Decorator: make a class known as `data=class data.name=<name>`.

    Raises:
        ValueError: no usable name, the name is taken and `override` is not set, the class does not
            inherit from `BaseDataset`, or `get_data` or `get_sample` cannot be called as they are.
    """
    _check_name("dataset", name)

    def add(made: D) -> D:
        _check_dataset(name, made)
        _add("dataset", _datasets, name, made, override)
        return made

    return add


def find_transform(name: str) -> Transform:
    """The function registered under a name.

    Raises:
        Unusable: LF515, there is none; with near matches.
    """
    if name not in _transforms:
        raise _unknown("transform", name, _transforms, "data.transform")
    return _transforms[name]


def find_dataset(name: str) -> type[BaseDataset]:
    """The class registered under a name.

    Raises:
        Unusable: LF515, there is none; with near matches.
    """
    if name not in _datasets:
        raise _unknown("dataset", name, _datasets, "data.name")
    return _datasets[name]


def identity(registered: Callable[..., Any]) -> str:
    """SHA-256, hex, of the source file of the module that defines a function or class.

    Modules that it imports are not part of it.

    Raises:
        Unusable: LF515, there is no source file (a notebook's cell), or the file was changed after
            it was imported, so that what runs here is not what the file says.
    """
    what = f"`{registered.__qualname__}` of module {registered.__module__}"
    found = _source_digest(registered)
    if found is None:
        fault = "is in no source file, so a worker cannot import it and a plan cannot name it"
        hint = "put it into a module, and name that in plugins=[...]"
        raise Unusable(what, Fault("LF515", fault, hint=hint))
    known = _digests.get((registered.__module__, registered.__qualname__), found)
    if known != found:
        fault = "was changed after this process imported it"
        raise Unusable(what, Fault("LF515", fault, hint="start Python again"))
    return found


def _source_digest(registered: Callable[..., Any]) -> str | None:
    module = sys.modules.get(registered.__module__)
    try:
        source = inspect.getsourcefile(module) if module else None
    except TypeError:  # a built-in module, or an interactive one: it has no file
        return None
    if source is None or not Path(source).is_file():
        return None
    return hashlib.sha256(Path(source).read_bytes()).hexdigest()


def _add(
    kind: str, known: dict[str, Any], name: str, made: Callable[..., Any], override: bool
) -> None:
    other = known.get(name)
    place = (made.__module__, made.__qualname__)
    # the same definition run again, by a reload or after a plugin was mended, replaces itself
    if other and not override and (other.__module__, other.__qualname__) != place:
        raise ValueError(
            f"{kind} `{name}` is already registered by {other.__module__}.{other.__qualname__}; "
            "override=True replaces it"
        )
    known[name] = made
    digest = _source_digest(made)
    if digest is not None:
        _digests[place] = digest


def _require(met: bool, otherwise: str) -> None:
    if not met:
        raise ValueError(otherwise)


def _check_name(kind: str, name: Any) -> None:
    _require(isinstance(name, str), f'@{kind} needs a name: @{kind}("my_name")')
    fits = _NAME.fullmatch(name) is not None
    _require(fits, f"{kind} name `{name}` is not letters, digits, underscores, dots and dashes")


def _check_transform(name: str, function: Any) -> None:
    what = f"transform `{name}`"
    plain = callable(function) and not isinstance(function, type)
    _require(
        plain and hasattr(function, "__qualname__"), f"{what} is no function: {function!r:.60}"
    )
    odd = inspect.iscoroutinefunction(function) or inspect.isgeneratorfunction(function)
    _require(not odd, f"{what} must return its rows, not await or yield them")
    signature = inspect.signature(function)
    _require(_takes(signature, {}), f"{what} must take one row and nothing else, not {signature}")


def _check_dataset(name: str, made: Any) -> None:
    what = f"dataset `{name}`"
    based = isinstance(made, type) and issubclass(made, BaseDataset)
    _require(based, f"{what} must be a class that inherits from BaseDataset")
    getter = inspect.getattr_static(made, "get_data")
    _require(
        getter is not inspect.getattr_static(BaseDataset, "get_data"), f"{what} has no get_data"
    )
    _require(isinstance(getter, classmethod), f"get_data of {what} needs @classmethod above it")
    signature = inspect.signature(made.get_sample)
    _require(
        _takes(signature, None, 0), f"get_sample of {what} must take an index, not {signature}"
    )
    keys = made.must_have_keys
    listed = isinstance(keys, tuple | list) and all(isinstance(key, str) for key in keys)
    _require(listed, f"must_have_keys of {what} must be a tuple of texts")


def _takes(signature: inspect.Signature, *arguments: Any) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def _unknown(kind: str, name: str, known: Iterable[str], key: str) -> Unusable:
    guess = near(name, known, limit=1)
    names = ", ".join(sorted(known)) or "none"
    return Unusable(
        f"{kind} `{name}`",
        Fault(
            "LF515",
            "is not registered by any plugin",
            hint=f"{key}={guess[0]}" if guess else "plugins=[<module that registers it>]",
            key=key.partition(".")[2],
            notes=(f"registered are: {names}",),
        ),
    )
