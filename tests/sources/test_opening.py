"""From settings to parts, and from a plan's files back to the same readers."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from llmforge.schema.data import SOURCES
from llmforge.sources.opening import SUFFIXES, open_source, reopen, set_name

CACHE = Path(".llmforge")
ROWS = [{"text": "one"}, {"text": "two"}]


@pytest.fixture(autouse=True)
def _here(here):
    return here


@pytest.fixture
def files() -> dict[str, str]:
    """The rows as a file of each kind."""
    import pyarrow as pa
    from pyarrow import parquet

    table = pa.Table.from_pylist(ROWS)
    parquet.write_table(table, "rows.parquet")
    with pa.ipc.new_file("rows.arrow", table.schema) as writer:
        writer.write_table(table)
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    Path("rows.json").write_text(json.dumps({"rows": ROWS}))
    Path("rows.csv").write_text("text\none\ntwo\n")
    Path("rows.txt").write_text("one\ntwo\n")
    kinds = {kind: f"rows.{kind}" for kind in ("jsonl", "json", "csv", "parquet", "arrow")}
    return {**kinds, "text": "rows.txt"}


def test_rows_of_every_kind_of_file_and_the_same_when_reopened(files, source):
    for kind, name in files.items():
        spec = source(kind, train=name)
        (part,) = open_source("", spec, CACHE).train
        assert [raw.values for raw in part.rows()] == ROWS, kind
        again = reopen(spec, part.name, part.file)
        assert [raw.values for raw in again.rows()] == ROWS, kind


def test_a_query_is_reopened_from_its_snapshot(source):
    with sqlite3.connect("rows.db") as database:
        database.execute("create table said (id integer primary key, text text)")
        database.executemany("insert into said (text) values (:text)", ROWS)
    database.close()
    spec = source("sql", url="sqlite:///rows.db", train="said")
    (part,) = open_source("", spec, CACHE).train
    before = [raw.values for raw in part.rows()]
    Path("rows.db").unlink()

    again = reopen(spec, part.name, part.file)

    assert [raw.values for raw in again.rows()] == before
    assert [row["text"] for row in before] == ["one", "two"]


def test_folder_and_glob_take_the_files_of_the_kind(files, source):
    found = open_source("", source("csv", train=["."]), CACHE)
    globbed = open_source("", source("jsonl", train="*.jsonl"), CACHE)

    assert [part.file.name for part in found.train] == ["rows.csv"]
    assert [part.file.name for part in globbed.train] == ["rows.jsonl"]


@pytest.mark.parametrize(
    ("name", "evaluation", "sets"),
    [
        ("", None, []),
        ("", "rows.jsonl", ["eval"]),
        ("", {"near": "rows.jsonl", "far": ["rows.jsonl"]}, ["near", "far"]),
        ("maths", "rows.jsonl", ["maths"]),
        ("maths", {"near": "rows.jsonl"}, ["maths_near"]),
    ],
)
def test_names_of_evaluation_sets(name, evaluation, sets, files, source):
    assert list(open_source(name, source(evaluation=evaluation), CACHE).evaluation) == sets


def test_what_cannot_be_opened_is_listed_with_its_setting(source):
    opened = open_source("", source(train="a.jsonl", evaluation={"far": "b.jsonl"}), CACHE)

    assert [(key, problem.fault.code) for key, problem in opened.unusable] == [
        ("train", "LF501"), ("evaluation.far", "LF501"),
    ]  # fmt: skip
    assert opened.train == []
    assert opened.evaluation == {"far": []}


def test_set_names():
    assert [set_name("", None), set_name("a", None), set_name("", "b"), set_name("a", "b")] == [
        "eval", "a", "b", "a_b",
    ]  # fmt: skip


def test_every_kind_of_file_has_its_suffixes():
    assert set(SUFFIXES) == set(SOURCES) - {"saved", "hub", "sql", "class"}
