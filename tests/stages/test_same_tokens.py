"""The same rows through every kind of source give the same tokens, byte for byte.

Set LLMFORGE_ROWS to a JSONL file with `question` and `answer` to try it on rows of your own.
"""

from __future__ import annotations

import csv
import json
import os
import sqlite3
import sys
from collections.abc import Callable, Iterator
from importlib import util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import llmforge
from llmforge.stages.prepare import prepare

HARD = [
    ("Is 2024-01-01 a date?", "2024-01-01"),
    ("What is NA?", "NA"),
    ("The agent's number?", "007"),
    ('She said "yes, no; maybe"', 'He said ""'),
    ("Two\nlines,\r\nand a third", "a\ttab"),
    ("Ünïcödé 🦙 \u2028 here", "naïve ✓"),
    ("null?", "null"),
    ("  spaces around  ", "  kept  "),
    ("a,b;c|d", "1,5"),
    ("Backslash \\ and \\n", "'single' \\\" double"),
]


def _load(path: Path) -> ModuleType:
    """A helper beside other tests: folders of tests are no packages."""
    spec = util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


postgres = _load(Path(__file__).parents[1] / "sources" / "postgres.py")


def the_rows() -> list[tuple[str, str]]:
    given = os.environ.get("LLMFORGE_ROWS")
    if given:
        with Path(given).open(encoding="utf-8") as file:
            found = (json.loads(line) for line in file)
            return [(row["question"], row["answer"]) for row in found]
    return [(f"{number}. {q}", a) for number in range(30) for q, a in HARD]


ROWS = the_rows()


@pytest.fixture(scope="module")
def server() -> Iterator[Any]:
    if reason := postgres.why_not():
        pytest.skip(reason)
    with postgres.cluster() as running:
        yield running


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def digest(*words: str) -> tuple[str, int]:
    """Digest of all tokens and labels, and how many rows they came from."""
    fields = ("data.fields.prompt=question", "data.fields.completion=answer")
    plan = llmforge.compile(
        [*words, *fields, "tokenizer.vocabulary=400", "data.eval_fraction=0", "evaluation=end",
         "model=small_llama", "data.max_cut_tokens=null", "tracking=none"]
    )  # fmt: skip
    report = prepare(plan).report
    return report["train"]["token_digest"], report["train"]["used"]


def jsonl() -> tuple[str, ...]:
    with Path("rows.jsonl").open("w", encoding="utf-8") as file:
        for question, answer in ROWS:  # noqa: FURB122 - one line each reads better
            file.write(json.dumps({"question": question, "answer": answer}) + "\n")
    return "data=jsonl", "data.train=rows.jsonl"


def as_json() -> tuple[str, ...]:
    rows = [{"question": question, "answer": answer} for question, answer in ROWS]
    Path("rows.json").write_text(json.dumps({"rows": rows}, indent=1, ensure_ascii=False))
    return "data=json", "data.train=rows.json"


def separated(delimiter: str, option: str) -> tuple[str, ...]:
    with Path(f"rows.{option}").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerows([("question", "answer"), *ROWS])
    return f"data={option}", f"data.train=rows.{option}"


def parquet() -> tuple[str, ...]:
    import pyarrow as pa
    from pyarrow import parquet as pq

    columns = {"question": [q for q, _ in ROWS], "answer": [a for _, a in ROWS]}
    pq.write_table(pa.table(columns), "rows.parquet", row_group_size=37)
    return "data=parquet", "data.train=rows.parquet"


def arrow() -> tuple[str, ...]:
    import pyarrow as pa

    columns = {"question": [q for q, _ in ROWS], "answer": [a for _, a in ROWS]}
    table = pa.table(columns)
    with pa.OSFile("rows.arrow", "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=37)
    return "data=arrow", "data.train=rows.arrow"


def saved() -> tuple[str, ...]:
    import datasets

    rows = [{"question": question, "answer": answer} for question, answer in ROWS]
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk("saved")
    return "data=saved", "data.path=saved"


def hub() -> tuple[str, ...]:
    """A folder in place of an id: `datasets` reads it as it reads a repository."""
    Path("repository").mkdir()
    parquet()
    Path("rows.parquet").rename("repository/train-00000-of-00001.parquet")
    return "data=hub", "data.id=./repository"


def sqlite() -> tuple[str, ...]:
    with sqlite3.connect("rows.db") as opened:
        opened.execute("create table qa (id integer primary key, question text, answer text)")
        opened.executemany("insert into qa (question, answer) values (?, ?)", ROWS)
    return "data=sql", "data.url=sqlite:///rows.db", "data.train=qa"


def from_list() -> tuple[str, ...]:
    path = llmforge.from_list([{"question": q, "answer": a} for q, a in ROWS])
    return "data=jsonl", f"data.train={path}"


def gzipped() -> tuple[str, ...]:
    import gzip

    jsonl()
    Path("packed.jsonl.gz").write_bytes(gzip.compress(Path("rows.jsonl").read_bytes()))
    return "data=jsonl", "data.train=packed.jsonl.gz"


def two_files() -> tuple[str, ...]:
    jsonl()
    lines = Path("rows.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    Path("many").mkdir()
    Path("many/a.jsonl").write_text("".join(lines[:100]), encoding="utf-8")
    Path("many/b.jsonl").write_text("".join(lines[100:]), encoding="utf-8")
    return "data=jsonl", "data.train=many"


@pytest.mark.parametrize(
    "source",
    [
        as_json,
        pytest.param(lambda: separated(",", "csv"), id="csv"),
        pytest.param(lambda: separated("\t", "tsv"), id="tsv"),
        parquet,
        arrow,
        saved,
        hub,
        sqlite,
        from_list,
        gzipped,
        two_files,
    ],
)
def test_the_same_tokens_as_from_jsonl(source: Callable[[], tuple[str, ...]], here: Path):
    assert digest(*source()) == digest(*jsonl())


def test_the_same_tokens_from_postgres(server: Any, here: Path):
    import psycopg

    where = f"host={server.folder} port={server.port} user={postgres.USER} dbname=postgres"
    with psycopg.connect(where, autocommit=True) as opened, opened.cursor() as cursor:
        cursor.execute("create table qa (id serial primary key, question text, answer text)")
        cursor.executemany("insert into qa (question, answer) values (%s, %s)", ROWS)

    url = f"data.url='{server.socket_url}'"
    found = digest("data=sql", url, "data.train='select * from qa order by id'")

    assert found == digest(*jsonl())
    assert found[1] == len(ROWS)


def test_other_rows_give_other_tokens(here: Path):
    before = digest(*jsonl())
    text = Path("rows.jsonl").read_text(encoding="utf-8")
    Path("rows.jsonl").write_text(text.replace("007", "008", 1), encoding="utf-8")

    assert digest("data=jsonl", "data.train=rows.jsonl") != before
