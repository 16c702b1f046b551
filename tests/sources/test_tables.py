"""Parquet and Arrow files as rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather as pf
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.sources.base import Raw, Unusable
from llmforge.sources.tables import ArrowPart, ParquetPart

TEXT = st.text(st.characters(codec="utf-8"), max_size=10)
ROWS = st.lists(
    st.fixed_dictionaries({
        "text": TEXT | st.none(),
        "score": st.integers(-(2**63), 2**63 - 1) | st.none(),
        "messages": st.lists(st.fixed_dictionaries({"role": TEXT, "content": TEXT}), max_size=3),
    }),
    min_size=1, max_size=6,
)  # fmt: skip
KINDS = pa.schema({
    "text": pa.string(), "score": pa.int64(),
    "messages": pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())])),
})  # fmt: skip


def write(path: Path, table: pa.Table, how: str) -> ParquetPart | ArrowPart:
    if how == "parquet":
        pq.write_table(table, path, row_group_size=3)
    elif how == "feather":
        pf.write_feather(table, path, chunksize=3)
    else:
        make = pa.ipc.new_file if how == "file" else pa.ipc.new_stream
        with pa.OSFile(str(path), "wb") as sink, make(sink, table.schema) as writer:
            writer.write_table(table, max_chunksize=3)
    return (ParquetPart if how == "parquet" else ArrowPart)("rows", path)


def values(rows: list[Raw]) -> list[Any]:
    assert [raw.line for raw in rows] == list(range(1, len(rows) + 1))
    return [raw.values for raw in rows]


@pytest.mark.parametrize("how", ["parquet", "file", "stream", "feather"])
@given(rows=ROWS)
@settings(max_examples=25)
def test_rows_come_back(
    tmp_path_factory: pytest.TempPathFactory, how: str, rows: list[dict[str, Any]]
) -> None:
    table = pa.Table.from_pylist(rows, schema=KINDS)
    part = write(tmp_path_factory.mktemp("rows") / "rows", table, how)
    assert values(list(part.rows())) == rows
    assert values(list(part.rows())) == rows, "a second time too"


@pytest.mark.parametrize("how", ["parquet", "stream"])
def test_many_batches(tmp_path: Path, how: str) -> None:
    rows = [{"n": number} for number in range(5000)]
    assert values(list(write(tmp_path / "r", pa.Table.from_pylist(rows), how).rows())) == rows


@pytest.mark.parametrize("how", ["parquet", "file", "stream", "feather"])
def test_no_rows_are_no_fault(tmp_path: Path, how: str) -> None:
    part = write(tmp_path / "rows", KINDS.empty_table(), how)
    assert list(part.rows()) == []
    (tmp_path / "rows").write_bytes(b"")
    assert list(part.rows()) == []


def test_binary_columns_are_left_out(tmp_path: Path) -> None:
    table = pa.table({"image": [b"x", b"y"], "text": ["a", "b"]})
    part = write(tmp_path / "rows", table, "parquet")
    assert values(list(part.rows())) == [{"text": "a"}, {"text": "b"}]
    part = write(tmp_path / "rows", table.select(["image"]), "stream")
    assert values(list(part.rows())) == [{}, {}], "no row is lost"


@pytest.mark.parametrize("how", ["parquet", "stream"])
def test_text_that_is_not_utf8_is_a_fault_of_its_row(tmp_path: Path, how: str) -> None:
    raw = pa.array([b"one", b"J\xf6rg", b"three"])
    text = pa.Array.from_buffers(pa.string(), 3, raw.buffers())
    one, two, three = write(tmp_path / "rows", pa.table({"text": text}), how).rows()
    assert (one.values, three.values) == ({"text": "one"}, {"text": "three"})
    assert two.fault is not None
    assert (two.line, two.fault.code) == (2, "LF503")
    assert two.fault.what == "is not UTF-8 in `text`: byte 0xf6 at position 1"


@pytest.mark.parametrize(
    ("how", "content", "message"),
    [
        ("parquet", b'{"a": 1}', r"rows is not a Parquet file: "),
        ("parquet", b"ARROW1\0\0", r"rows is an Arrow file"),
        ("file", b"a,b\n1,2\n", r"rows is not an Arrow file: "),
        ("file", b"PAR1\x15", r"rows is a Parquet file"),
        ("file", b"FEA1" + b"\0" * 40, r"rows is a Feather file of version 1"),
        ("file", b"version https://git-lfs.example", r"rows is a Git LFS pointer"),
    ],
)
def test_files_of_another_kind(tmp_path: Path, how: str, content: bytes, message: str) -> None:
    (tmp_path / "rows").write_bytes(content)
    kind = ParquetPart if how == "parquet" else ArrowPart
    with pytest.raises(Unusable, match=message) as caught:
        list(kind("rows", tmp_path / "rows").rows())
    assert caught.value.fault.code == "LF504"
    assert caught.value.fault.hint


@pytest.mark.parametrize("how", ["parquet", "file", "stream", "feather"])
@given(cut=st.floats(0.05, 0.99))
@settings(max_examples=15)
def test_a_file_cut_anywhere_gives_sound_rows_at_most(
    tmp_path_factory: pytest.TempPathFactory, how: str, cut: float
) -> None:
    path = tmp_path_factory.mktemp("rows") / "rows"
    rows = [{"text": f"row {number}"} for number in range(10)]
    part = write(path, pa.Table.from_pylist(rows), how)
    raw = path.read_bytes()
    path.write_bytes(raw[: int(len(raw) * cut)])
    found: list[Raw] = []
    refused: Unusable | None = None
    try:
        for each in part.rows():
            found.append(each)  # noqa: PERF402 - what came before the refusal counts
    except Unusable as problem:
        refused = problem
    # a stream may end behind any of its batches, and nothing tells that there were more
    assert refused is not None or how == "stream"
    assert refused is None or refused.fault.code == "LF504"
    assert values(found) == rows[: len(found)]


def test_a_column_name_twice_is_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["a"])] * 2, names=["text", "text"])
    with pytest.raises(Unusable, match="rows has two columns `text`"):
        list(write(tmp_path / "rows", table, "stream").rows())


def test_a_folder_and_a_missing_file_are_told(tmp_path: Path) -> None:
    for kind in (ParquetPart, ArrowPart):
        with pytest.raises(Unusable, match="is a folder, not a file"):
            list(kind("rows", tmp_path).rows())
        with pytest.raises(Unusable, match="cannot be read: No such file"):
            list(kind("rows", tmp_path / "gone").rows())
