"""Data looked at before anything is loaded: every row of every source read, counted and checked.

In: section `data`. Out: `DataFacts` and findings LF501-LF506, LF509, LF511-LF516. Each part is read
once; what was found is remembered by the file's size and time and by the settings that matter, so a
second plan does not read it again. Nothing here tokenises.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from llmforge.compiler.facts.faults import (
    all_held_out,
    bad_condition,
    counted,
    left_out,
    no_rows,
    pasted,
    row_findings,
    tell,
    too_many,
    unfit_weights,
)
from llmforge.diagnostics import Diagnostic
from llmforge.digests import edge_digest, file_digest, remember, remembered, stat_key
from llmforge.schema.base import allowed
from llmforge.schema.data import SOURCES, GeneratedData, MixData, Rows, Source
from llmforge.sources.base import Fault, Part, Unusable
from llmforge.sources.counts import Share, SourceRows, share_out
from llmforge.sources.flow import Dropped, Flow, Transform
from llmforge.sources.functions import find_transform, identity
from llmforge.sources.opening import DEFAULT_SET, Opened, open_source, set_name, sources_of
from llmforge.sources.select import condition
from llmforge.version import __version__

_LOOKED_AT = 1000
"""Rows of a training part that are read where data are streamed: the rest may be without end."""

_FAULTS_KEPT = 5
"""Faulty rows told one by one per part; the rest are counted."""


@dataclass(frozen=True)
class PartFacts:
    """One file, or the snapshot of a query, as it was when the plan was made."""

    name: str
    """As people know it."""
    file: str
    sha256: str
    """Of its bytes; `edges`: of its size, first and last MiB, where data are streamed."""
    bytes: int
    rows: int
    """Usable rows that are trained on, or of an evaluation part."""
    folded: int = 0
    """Usable rows that the fold column holds out."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Rows left out by reason: `bad`, `not_selected`, `transformed_away`."""
    edges: bool = False
    """Only its first rows were read."""


@dataclass(frozen=True)
class SourceFacts:
    """One source."""

    shape: str
    train: tuple[PartFacts, ...]
    evaluation: dict[str, tuple[PartFacts, ...]]
    share: Share
    """Rows it gives."""
    origin: dict[str, Any] = field(default_factory=dict)
    """What a name stood for: the hub's commit."""


@dataclass(frozen=True)
class DataFacts:
    """What the data section stands for."""

    shapes: tuple[str, ...]
    """Of its sources, each once."""
    train_rows: int
    sets: dict[str, int]
    """Rows of each evaluation set."""
    sources: dict[str, SourceFacts] = field(default_factory=dict)
    functions: dict[str, str] = field(default_factory=dict)
    """Digests of the code that rows go through: `transform:name`, `class:name`."""

    @property
    def shape(self) -> str:
        return self.shapes[0] if len(self.shapes) == 1 else "mixed"

    @property
    def evaluation_rows(self) -> int:
        return sum(self.sets.values())

    def to_dict(self) -> dict[str, Any]:
        return {
            "shape": self.shape,
            "rows": {"train": self.train_rows, "evaluation": self.evaluation_rows},
            "sets": dict(self.sets),
            "sources": {name or "data": asdict(found) for name, found in self.sources.items()},
        }

    def identity(self) -> dict[str, Any]:
        """What decides the samples: content and order count, where files lie does not."""
        return {
            **{
                name or "data": {
                    "train": [part.sha256 for part in found.train],
                    "evaluation": {
                        key: [part.sha256 for part in parts]
                        for key, parts in found.evaluation.items()
                    },
                }
                for name, found in self.sources.items()
            },
            **self.functions,
        }


def look_at(data: Rows, cache: Path) -> tuple[DataFacts | None, list[Diagnostic]]:
    """Facts of a data section; None when a part is unusable."""
    if isinstance(data, GeneratedData):
        return _builtin(data, cache)
    found: list[Diagnostic] = []
    looks = {
        name: _Look(name, source, data.streaming, cache, found)
        for name, source in sources_of(data).items()
    }
    if isinstance(data, MixData) and data.weights is not None:
        found += unfit_weights(data)
    bad = sum(look.bad for look in looks.values())
    total = sum(look.seen for look in looks.values())
    hopeless = any(look.hopeless for look in looks.values())
    rows_told = [counted(d, bad, hopeless) for look in looks.values() for d in look.row_findings]
    if bad and not any(d.is_error for d in found):
        places = [row for look in looks.values() for row in look.first_bad]
        if hopeless or bad > allowed(data.max_bad_rows, total):
            found += rows_told
            found += [] if hopeless else too_many(bad, total, data.max_bad_rows)
        else:
            found.append(left_out(bad, total, places))
    else:
        found += rows_told
    if any(d.is_error for d in found):
        return None, found
    rows = {name: look.rows() for name, look in looks.items()}
    shares = share_out(rows, data, {name: set_name(name, None) for name in looks})
    sources = {name: look.facts(shares[name]) for name, look in looks.items()}
    sets = {key: n for share in shares.values() for key, n in share.sets.items()}
    train_rows = sum(share.taken for share in shares.values())
    if not train_rows:
        return None, [*found, all_held_out(sum(sets.values()), sources_of(data))]
    shapes = tuple(dict.fromkeys(source.shape for source in sources.values()))
    functions = {key: digest for look in looks.values() for key, digest in look.functions.items()}
    return DataFacts(shapes, train_rows, sets, sources, functions), found


class _Look:
    """One source, opened and read."""

    def __init__(
        self, name: str, source: Source, streaming: bool, cache: Path, found: list[Diagnostic]
    ) -> None:
        self._source, self._cache, self._streaming = source, cache, streaming
        self.prefix = f"data.sources.{name}" if name else "data"
        self.bad = self.seen = 0
        self.hopeless = False
        """Every row of a part has the same fault."""
        self.first_bad: list[str] = []
        self.row_findings: list[Diagnostic] = []
        self.functions: dict[str, str] = {}
        self._shape: str | None = None if source.shape == "auto" else source.shape
        self._train: list[PartFacts] = []
        self._sets: dict[str, list[PartFacts]] = {}
        self._opened = Opened(self.prefix)
        before = len(found)
        found += [
            bad_condition(text, source.select, self.prefix, error)
            for text, error in _faulty(source)
        ]
        if getattr(source, "evaluation", None) is not None:
            found += self._contradiction()
        transform = self._find_transform(found)
        if len(found) > before:
            return
        self._opened = open_source(name, source, cache)
        found += [tell(problem, self.prefix, key) for key, problem in self._opened.unusable]
        if self._opened.evaluation and getattr(source, "evaluation", None) is None:
            found += self._contradiction()  # a class gave one
        self._train = self._read(self._opened.train, "train", transform, found)
        for key, parts in self._opened.evaluation.items():
            self._sets[key] = self._read(parts, "evaluation", transform, found)

    def rows(self) -> SourceRows:
        """Usable rows."""
        return SourceRows(
            sum(part.rows for part in self._train),
            sum(part.folded for part in self._train),
            {key: sum(part.rows for part in parts) for key, parts in self._sets.items()},
        )

    def facts(self, share: Share) -> SourceFacts:
        """For the plan."""
        sets = {key: tuple(parts) for key, parts in self._sets.items()}
        shape = self._shape or "text"
        return SourceFacts(shape, tuple(self._train), sets, share, self._opened.facts)

    def _find_transform(self, found: list[Diagnostic]) -> Transform | None:
        name = self._source.transform
        if name is None:
            return None
        try:
            transform = find_transform(name)
            self.functions[f"transform:{name}"] = identity(transform)
        except Unusable as problem:
            found.append(tell(problem, self.prefix, "transform"))
            return None
        return transform

    def _contradiction(self) -> list[Diagnostic]:
        if self._source.fold is None:
            return []
        key = f"{self.prefix}.fold"
        return [
            Diagnostic(
                "LF511",
                f"the fold column `{self._source.fold}` and an evaluation set of its own would "
                "both say what is held out",
                key=key,
                hint=pasted("fold=null", self.prefix),
            )
        ]

    def _read(
        self, parts: list[Part], key: str, transform: Transform | None, found: list[Diagnostic]
    ) -> list[PartFacts]:
        facts = []
        dropped: Counter[str] = Counter()
        for part in parts:
            try:
                limit = _LOOKED_AT if self._streaming and key == "train" else None
                seen = self._remembered(part, transform, limit)
            except Unusable as problem:
                found.append(tell(problem, self.prefix, key))
                continue
            self._shape = self._shape or seen.shape
            self.bad += seen.dropped.get("bad", 0)
            self.seen += seen.kept + seen.folded + sum(seen.dropped.values())
            self.first_bad += [place for place, _ in seen.faults]
            self.hopeless |= any(fault.ends for _, fault in seen.faults)
            bad = seen.dropped.get("bad", 0)
            self.row_findings += row_findings(seen.faults, bad, part.name, self.prefix, key)
            if not (seen.kept + seen.folded + sum(seen.dropped.values())):
                found.append(no_rows(part.name, f"{self.prefix}.{key}", Counter()))
            dropped.update(seen.dropped)
            path = part.file
            assert path is not None  # noqa: S101 - whatever is no file took a snapshot
            digest = edge_digest(path) if limit else file_digest(path, self._cache)
            size = path.stat().st_size
            held = seen.folded if key == "train" else 0
            kept = seen.kept if key == "train" else seen.kept + seen.folded
            facts.append(
                PartFacts(
                    part.name, str(path), digest, size, kept, held, dict(seen.dropped), bool(limit)
                )
            )
        if dropped and not dropped["bad"] and not any(part.rows + part.folded for part in facts):
            name = facts[0].name if len(facts) == 1 else f"each of {len(facts)} files"
            found.append(no_rows(name, f"{self.prefix}.{key}", dropped))
        return facts

    def _remembered(self, part: Part, transform: Transform | None, limit: int | None) -> _Seen:
        path = part.file
        assert path is not None  # noqa: S101 - whatever is no file took a snapshot
        if not path.is_file():
            return _scan(part, Flow(self._source, self._shape, transform), limit)
        # shares, caps and limits of a section that is rows and source in one do not change a scan
        own = set(SOURCES[self._source.kind].model_fields)
        apart = {"train", "evaluation", "path", "url"}
        settings = self._source.model_dump(mode="json", include=own - apart)
        key = json.dumps(
            [__version__, stat_key(path), self._shape, settings, self.functions, limit],
            sort_keys=True,
        )
        known = remembered(self._cache, "scans.json", key)
        if isinstance(known, Mapping):
            return _Seen.from_dict(known, part.name)
        seen = _scan(part, Flow(self._source, self._shape, transform), limit)
        remember(self._cache, "scans.json", key, seen.to_dict(part.name))
        return seen


@dataclass
class _Seen:
    """What one reading of a part found."""

    shape: str | None
    kept: int = 0
    folded: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    faults: list[tuple[str, Fault]] = field(default_factory=list)
    """Place and fault of the first bad rows."""

    def to_dict(self, name: str) -> dict[str, Any]:
        faults = [(place.removeprefix(name), asdict(fault)) for place, fault in self.faults]
        return {**asdict(self), "faults": faults}

    @classmethod
    def from_dict(cls, known: Mapping[str, Any], name: str) -> _Seen:
        faults = [
            (f"{name}{place}", Fault(**{**fault, "notes": tuple(fault["notes"])}))
            for place, fault in known["faults"]
        ]
        return cls(**{**known, "faults": faults})


def _scan(part: Part, flow: Flow, limit: int | None = None) -> _Seen:
    """The first rows of a part, or all; a fault that every row would have ends the reading."""
    seen = _Seen(None)
    dropped: Counter[str] = Counter()
    for item in islice(flow.read(part), limit):
        if not isinstance(item, Dropped):
            seen.folded += item.held_out
            seen.kept += not item.held_out
            continue
        dropped[item.reason] += 1
        if item.fault is not None and len(seen.faults) < _FAULTS_KEPT:
            seen.faults.append((item.place, item.fault))
        if item.fault is not None and item.fault.ends:
            break
    seen.shape, seen.dropped = flow.shape, dict(sorted(dropped.items()))
    return seen


def _faulty(source: Source) -> list[tuple[str, ValueError]]:
    found = []
    for text in source.select:
        try:
            condition(text)
        except ValueError as error:
            found.append((text, error))
    return found


_GENERATOR = ("__init__.py", "conversations.py", "pairs.py", "words.py")
"""Files that make the conversations, of those in `samples/`."""


def builtin_digest(kind: str = "builtin") -> str:
    """Digest of the generator's own source: other code, other conversations."""
    folder = Path(__file__).parents[2] / "samples"
    names = (*_GENERATOR, "short.py") if kind == "builtin_short" else _GENERATOR
    digest = hashlib.sha256()
    for name in sorted(names):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()


def _builtin(data: GeneratedData, cache: Path) -> tuple[DataFacts | None, list[Diagnostic]]:
    code = builtin_digest(data.kind)
    key = f"{code}|{data.rows}|{data.generator_seed}|{data.split_seed}|{data.eval_fraction}"
    known = remembered(cache, "builtin.json", key)
    if not isinstance(known, list):
        from llmforge.samples.conversations import generate, split

        rows = generate(data.generator_seed, data.rows)
        try:
            fraction = data.eval_fraction
            held = split(rows, data.split_seed, fraction)[1] if fraction else []
        except ValueError as error:
            found = Diagnostic(
                "LF509", str(error), key="data.eval_fraction", hint="data.eval_fraction=0.1"
            )
            return None, [found]
        known = [len(rows) - len(held), len(held)]
        remember(cache, "builtin.json", key, known)
    sets = {DEFAULT_SET: known[1]} if known[1] else {}
    share = share_out({"": SourceRows(known[0], 0, sets)}, data, {"": DEFAULT_SET})[""]
    return DataFacts((data.shape,), share.taken, share.sets, {}, {"builtin": code}), []
