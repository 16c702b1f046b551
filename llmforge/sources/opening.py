"""From a source's settings to its parts: expand paths, run queries, ask the hub.

In: a source, its name in a mix, the cache folder. Out: `Opened`, the parts to train on and those of
each evaluation set. The worker does not open sources: `reopen` reads the very files that the plan
names, so that a query is never run twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.schema.data import (
    ArrowSource,
    ClassSource,
    CsvSource,
    FileSource,
    HubSource,
    JsonlSource,
    JsonSource,
    MixData,
    ParquetSource,
    Rows,
    SavedSource,
    Source,
    SqlSource,
    TextSource,
)
from llmforge.sources.base import Part, Unusable
from llmforge.sources.classes import class_parts
from llmforge.sources.delimited import DelimitedPart
from llmforge.sources.files import expand
from llmforge.sources.hub import hub_parts
from llmforge.sources.json_list import JsonPart
from llmforge.sources.jsonl import JsonlPart
from llmforge.sources.saved import saved_parts
from llmforge.sources.sql import sql_part
from llmforge.sources.tables import ArrowPart, ParquetPart
from llmforge.sources.text import TextPart

DEFAULT_SET = "eval"
"""Name of the evaluation set that was not named; its metrics are `eval_loss`, ..."""

SUFFIXES: dict[str, tuple[str, ...]] = {
    "jsonl": (".jsonl", ".ndjson"),
    "json": (".json",),
    "csv": (".csv", ".tsv", ".tab"),
    "parquet": (".parquet",),
    "arrow": (".arrow", ".feather", ".ipc"),
    "text": (".txt", ".md", ".text"),
}
"""Which files of a folder a kind takes."""


@dataclass
class Opened:
    """The parts of one source."""

    prefix: str
    """Where its settings stand: `data`, or `data.sources.maths`."""
    train: list[Part] = field(default_factory=list)
    evaluation: dict[str, list[Part]] = field(default_factory=dict)
    facts: dict[str, Any] = field(default_factory=dict)
    """What was found out on the way: the commit that a revision stood for."""
    unusable: list[tuple[str, Unusable]] = field(default_factory=list)
    """Setting to blame (`train`, `evaluation`) and what is wrong with it."""


def sources_of(data: Rows) -> dict[str, Source]:
    """The sources of a data section by name; a single source has no name, generated rows have
    none."""
    if isinstance(data, MixData):
        return dict(data.sources)
    return {"": data} if isinstance(data, Source) else {}


def set_name(source: str, given: str | None) -> str:
    """Name of an evaluation set: the given one, after its source's in a mix."""
    return "_".join(part for part in (source, given) if part) or DEFAULT_SET


def open_source(name: str, source: Source, cache: Path) -> Opened:
    """Find every part of a source; what cannot be found is listed, not raised."""
    opened = Opened(f"data.sources.{name}" if name else "data")
    train = getattr(source, "train", None)
    if isinstance(source, ClassSource):
        _class(name, source, cache, opened)
        return opened
    if train is not None or isinstance(source, SavedSource):
        opened.train = _parts(source, train, "train", cache, opened)
    evaluation = getattr(source, "evaluation", None)
    named = evaluation if isinstance(evaluation, Mapping) else {None: evaluation}
    for given, place in named.items():
        if place is not None:
            key = f"evaluation.{given}" if given else "evaluation"
            opened.evaluation[set_name(name, given)] = _parts(source, place, key, cache, opened)
    return opened


def _parts(source: Source, place: Any, key: str, cache: Path, opened: Opened) -> list[Part]:
    try:
        match source:
            case FileSource():
                found = expand(place, SUFFIXES[source.kind], f"{opened.prefix}.{key}")
                return [reopen(source, name, path) for name, path in found]
            case SavedSource():
                return list(saved_parts(source.path, place, f"{opened.prefix}.{key}"))
            case SqlSource():
                return [sql_part(source, place, cache)]
            case HubSource():
                parts, facts = hub_parts(source, place, cache)
                opened.facts |= facts
                return list(parts)
    except Unusable as problem:
        opened.unusable.append((key, problem))
        return []
    raise TypeError(f"source kind `{source.kind}` has no parts")


def _class(name: str, source: ClassSource, cache: Path, opened: Opened) -> None:
    try:
        train, evaluation = class_parts(source, cache)
    except Unusable as problem:
        opened.unusable.append(("name", problem))
        return
    opened.train = [train]
    if evaluation is not None:
        opened.evaluation = {set_name(name, None): [evaluation]}


def reopen(source: Source, name: str, path: Path) -> Part:
    """The reader of one file that is known to belong to a source."""
    match source:
        case JsonSource():
            return JsonPart(name, path)
        case CsvSource():
            return DelimitedPart(name, path, source.delimiter, source.quote, source.header)
        case TextSource():
            return TextPart(name, path, source.unit)
        case ParquetSource():
            return ParquetPart(name, path)
        case ArrowSource() | SavedSource() | HubSource():
            return ArrowPart(name, path)
        case JsonlSource() | SqlSource() | ClassSource():  # the latter two: their snapshots
            return JsonlPart(name, path)
    raise TypeError(f"source kind `{source.kind}` has no files")
