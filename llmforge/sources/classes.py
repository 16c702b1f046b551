"""Rows of a registered data set class: `get_data` lists items, `get_sample` makes a row of each.

In: a `ClassSource` and the cache folder. Out: one part for training and perhaps one for evaluation,
both snapshots. The class runs in a process of its own, which imports the plugins first, so its
libraries and its faults stay there. It runs again only when its source file or its options change,
or those of an experiment that may give it more keywords.

Run as `python -m llmforge.sources.classes`, this module is that process.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmforge import plugins, registry
from llmforge.schema.data import ClassSource
from llmforge.sources.base import Fault, Part, Unusable, excerpt
from llmforge.sources.functions import BaseDataset, find_dataset, identity
from llmforge.sources.jsonl import JsonlPart
from llmforge.sources.process import answer, ask
from llmforge.sources.snapshot import snapshot, snapshot_facts
from llmforge.version import __version__

CODE = "LF515"
_SIDES = ("train", "evaluation")


@dataclass(frozen=True)
class KeywordsFrom:
    """An experiment that gives data set classes more keywords; see `build/experiment.py`."""

    kind: str
    """Its kind in the section `hooks`."""
    fields: Mapping[str, Any]
    """What it is made with."""
    digest: str
    """Of its source."""


_experiment: ContextVar[KeywordsFrom | None] = ContextVar("experiment", default=None)


@contextmanager
def keywords_from(experiment: KeywordsFrom | None) -> Iterator[None]:
    """Inside, the data set class of each side is made with what the experiment gives for it."""
    token = _experiment.set(experiment)
    try:
        yield
    finally:
        _experiment.reset(token)


def class_parts(source: ClassSource, cache: Path) -> tuple[Part, Part | None]:
    """Training part, and the evaluation part if the class gives one.

    The class must be registered in this process (`plugins.load`); what it is made of is read off
    its source file.

    Raises:
        Unusable: LF515 for whatever the class does wrong: unknown name, options it does not take,
            an exception with its file and line, no rows, a sample without a key that it must have.
    """
    name = f"class `{source.name}`"
    memory = cache / "classes" / f"{_key(source)}.json"
    found = None if source.refresh else _remembered(memory)
    if found is None:
        request = {
            "plugins": list(plugins.loaded()),
            "name": source.name,
            "options": source.options,
            "cache": str(cache),
        }
        experiment = _experiment.get()
        if experiment is not None:
            request["experiment"] = {"kind": experiment.kind, "fields": dict(experiment.fields)}
        found = ask("llmforge.sources.classes", request, name, CODE)
        _remember(memory, found)
    train = JsonlPart(f"{name} train", Path(found["train"]))
    if found["evaluation"] is None:
        return train, None
    return train, JsonlPart(f"{name} evaluation", Path(found["evaluation"]))


def make(request: Mapping[str, Any]) -> dict[str, str | None]:
    """The other process's work: import the plugins, call the class, write the snapshots.

    Args:
        request: `plugins`, `name`, `options`, `cache`, and perhaps `experiment`.

    Returns:
        Paths of the snapshots by side; `evaluation` may be None.

    Raises:
        Unusable: see `class_parts`.
    """
    name = f"class `{request['name']}`"
    problems = [d for d in plugins.load(request["plugins"]) if d.is_error]
    if problems:
        raise Unusable(name, Fault(CODE, f"is not there: {problems[0].message}"))
    made = find_dataset(request["name"])
    sides = _call(made, request["options"], name)
    keywords = _keywords(request.get("experiment"), name)
    found: dict[str, str | None] = dict.fromkeys(_SIDES)
    for side, items in zip(_SIDES, sides, strict=True):
        if items is not None:
            rows = _samples(made, items, keywords[side], f"{name} {side}")
            path = snapshot(Path(request["cache"]), None, rows, name=f"{name} {side}", code=CODE)
            found[side] = str(path)
    return found


def _call(made: type[BaseDataset], options: Mapping[str, Any], name: str) -> tuple[Any, Any]:
    """What `get_data` gives, checked: items to train on, and items or None to evaluate on."""
    try:
        given = made.get_data(**options)
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        key = "options" if isinstance(error, TypeError) else None
        what = f"raised in get_data: {plugins.raised_at(error)}"
        raise Unusable(name, Fault(CODE, what, key=key)) from error
    if given is None:
        raise Unusable(name, Fault(
            CODE, "gives no data: get_data returned None", hint="return (train, evaluation or None)"
        ))  # fmt: skip
    if not isinstance(given, tuple) or len(given) != 2:
        kind = f"{len(given)} values" if isinstance(given, tuple) else type(given).__name__
        what = f"gives {kind} from get_data, where (train, evaluation or None) was expected"
        raise Unusable(name, Fault(CODE, what, hint="return train, None"))
    train, evaluation = (
        _listed(items, name, side) for items, side in zip(given, _SIDES, strict=True)
    )
    if train is None or len(train) == 0:
        what = "gives an empty training list from get_data: there is nothing to learn from"
        raise Unusable(name, Fault(CODE, what))
    return train, evaluation


def _listed(items: Any, name: str, side: str) -> Any:
    """Something with a length that can be indexed; a list is made of what can only be walked."""
    if items is None or (hasattr(items, "__len__") and hasattr(items, "__getitem__")):
        odd = isinstance(items, str | bytes | Mapping)
    else:
        odd = not isinstance(items, Iterable)
    if odd:
        what = f"gives {type(items).__name__} as {side} data from get_data, not a list"
        raise Unusable(name, Fault(CODE, what))
    return items if items is None or hasattr(items, "__getitem__") else list(items)


def _keywords(experiment: Mapping[str, Any] | None, name: str) -> dict[str, dict[str, Any]]:
    """What the experiment adds, by side."""
    found: dict[str, dict[str, Any]] = {side: {} for side in _SIDES}
    if experiment is None:
        return found
    try:
        made = registry.component("hooks", experiment["kind"]).load_builder()
        asked = made(**experiment["fields"])
        for side, word in zip(_SIDES, ("train", "eval"), strict=True):
            found[side] = dict(getattr(asked, f"build_{word}_dataset_additional_kwargs")())
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        what = f"gets no keywords from `hooks`: {plugins.raised_at(error)}"
        raise Unusable(name, Fault(CODE, what)) from error
    return found


def _samples(
    made: type[BaseDataset], items: Any, keywords: Mapping[str, Any], name: str
) -> Iterator[Mapping[str, Any]]:
    """Each item through `get_sample`, with the keys that it must have."""
    index = -1
    try:
        listed = made(items, **keywords)
        for index in range(len(listed)):
            yield _checked(made, listed.get_sample(index), index, name)
    except Unusable:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything
        where = "when it was made" if index < 0 else f"in get_sample({index})"
        raise Unusable(name, Fault(CODE, f"raised {where}: {plugins.raised_at(error)}")) from error


def _checked(made: type[BaseDataset], sample: Any, index: int, name: str) -> Mapping[str, Any]:
    if not isinstance(sample, Mapping):
        kind = "None" if sample is None else type(sample).__name__
        what = f"gives {kind} from get_sample({index}), where a row was expected"
        raise Unusable(name, Fault(
            CODE, what, sample=excerpt(repr(sample)),
            hint="return a mapping of columns to values; leave rows out in get_data",
        ))  # fmt: skip
    missing = [key for key in made.must_have_keys if key not in sample]
    if missing:
        keys = " and ".join(f"`{key}`" for key in missing)
        raise Unusable(name, Fault(
            CODE, f"gives a sample without {keys} at index {index}",
            sample=excerpt(repr(dict(sample))),
            notes=(f"must_have_keys of {made.__qualname__}: {', '.join(made.must_have_keys)}",),
        ))  # fmt: skip
    return sample


def _key(source: ClassSource) -> str:
    """Changes with the class's source file and its options."""
    made = identity(find_dataset(source.name))
    asked: list[Any] = [__version__, source.name, made, source.options]
    experiment = _experiment.get()
    if experiment is not None:
        asked.append(asdict(experiment))
    what = json.dumps(asked, sort_keys=True)
    return hashlib.sha256(what.encode("utf-8")).hexdigest()[:32]


def _remembered(memory: Path) -> dict[str, Any] | None:
    """Snapshots made before, if they are all still there and whole."""
    try:
        found = json.loads(memory.read_text(encoding="utf-8"))
        paths = [found[side] for side in _SIDES]
    except (OSError, ValueError, KeyError, TypeError):  # not there, or damaged: made anew
        return None
    whole = all(snapshot_facts(Path(path)) for path in paths if path is not None)
    return dict(found) if whole and paths[0] is not None else None


def _remember(memory: Path, found: Mapping[str, Any]) -> None:
    memory.parent.mkdir(parents=True, exist_ok=True)
    staged = memory.with_name(f".{memory.stem}.{os.getpid()}.{uuid.uuid4().hex[:8]}.tmp")
    staged.write_text(json.dumps(found), encoding="utf-8")
    staged.replace(memory)


if __name__ == "__main__":
    answer(make)
