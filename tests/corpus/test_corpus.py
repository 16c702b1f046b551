"""Every hostile file, read by its reader: a row or a told fault, and nothing in between.

The cases, their places and their numbers are written by hand in `corpus_text.py` and
`corpus_binary.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from llmforge.sources.base import Part, Raw, Unusable
from llmforge.sources.delimited import DelimitedPart
from llmforge.sources.files import expand
from llmforge.sources.json_list import JsonPart
from llmforge.sources.jsonl import JsonlPart
from llmforge.sources.saved import saved_parts
from llmforge.sources.tables import ArrowPart, ParquetPart
from llmforge.sources.text import TextPart

if TYPE_CHECKING:
    from corpus_cases import Case


def parts(case: Case) -> list[Part]:
    """The readers that a case's overrides choose, with the defaults of `conf/data`."""
    settings = dict(override.split("=", 1) for override in case.overrides)
    kind = settings["data"]
    if kind == "saved":
        split = settings["data.train"]
        return list(saved_parts(settings["data.path"], None if split == "null" else split))
    found = expand(settings["data.train"], (f".{kind}",), "data.train")
    header = settings.get("data.header") != "false"
    unit = settings.get("data.unit", "line")
    make_part = {
        "jsonl": JsonlPart,
        "json": JsonPart,
        "csv": lambda name, path: DelimitedPart(name, path, ",", '"', header),
        "tsv": lambda name, path: DelimitedPart(name, path, "\t", '"', header),
        "text": lambda name, path: TextPart(name, path, unit),
        "parquet": ParquetPart,
        "arrow": ArrowPart,
    }[kind]
    return [make_part(name, path) for name, path in found]


def read(case: Case) -> Iterator[tuple[str, Raw]]:
    for part in parts(case):
        for raw in part.rows():
            yield part.name, raw


def check(case: Case) -> None:
    good, faults = 0, []
    refused: Unusable | None = None
    try:
        for name, raw in read(case):
            assert (raw.values is None) != (raw.fault is None)
            if raw.fault is None:
                json.dumps(raw.values, allow_nan=False)
                good += 1
            else:
                faults.append((f"{name}:{raw.line}", raw.fault))
    except Unusable as error:
        refused = error
    if case.checked_by == "flow":
        assert (refused, faults) == (None, []), "only its meaning is wrong"
        assert good == case.good + case.bad
        return
    if case.code is None:
        assert (refused, faults, good) == (None, [], case.good)
        return
    if case.place is None:
        assert refused is not None, "the file as a whole is refused"
        assert refused.fault.code == case.code
        assert faults == []
        assert refused.fault.hint or refused.fault.notes, "what can be done"
        if case.good:  # rows before the damage have been given
            assert good == case.good
        return
    assert refused is None
    assert (good, len(faults)) == (case.good, case.bad), "no row is lost"
    place, fault = faults[0]
    assert (fault.code, place) == (case.code, case.place)
    for _, each in faults:
        assert each.what
        assert each.hint, "what can be done"
        assert each.sample, "what stands there"
        assert len(each.sample) <= 80
        assert each.column is None or each.column >= 1


def test_every_file_gives_rows_or_faults(
    corpus: tuple[Path, list[Case]], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, cases = corpus
    monkeypatch.chdir(folder)
    wrong = []
    for case in cases:
        if case.checked_by == "command":
            continue
        try:
            check(case)
        except Exception as error:
            wrong.append(f"{case.file} ({case.words}): {type(error).__name__}: {error}")
    assert not wrong, "\n\n".join(wrong)


def test_the_corpus_is_large_and_covers_every_reader(corpus: tuple[Path, list[Case]]) -> None:
    _, cases = corpus
    by_reader = [case for case in cases if case.checked_by == "reader" and case.code]
    assert len(by_reader) >= 60
    kinds = {case.overrides[0] for case in cases}
    every = ("jsonl", "json", "csv", "tsv", "text", "parquet", "arrow", "saved", "sql")
    assert kinds == {f"data={kind}" for kind in every}
    assert {case.code for case in cases if case.code} == {
        "LF501", "LF502", "LF503", "LF504", "LF505", "LF506", "LF514"
    }  # fmt: skip
    assert len({(case.file, case.overrides) for case in cases}) == len(cases)


def test_it_is_the_same_twice(corpus: tuple[Path, list[Case]], tmp_path: Path) -> None:
    from make import make

    folder, cases = corpus
    assert make(tmp_path) == cases
    for path in sorted(tmp_path.rglob("*")):
        if path.is_file() and path.suffix != ".db":
            assert path.read_bytes() == (folder / path.relative_to(tmp_path)).read_bytes(), path
