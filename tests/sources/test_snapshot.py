"""Snapshots hold every row, in order, as JSON; and nothing half-written is ever seen."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.sources.base import Unusable
from llmforge.sources.jsonl import JsonlPart
from llmforge.sources.snapshot import from_list, snapshot, snapshot_facts


def read(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n")[:-1]]


def test_rows_and_what_is_known_about_them(tmp_path: Path) -> None:
    path = snapshot(tmp_path, "mine", [{"q": "Who?", "a": "me"}, {"q": "naïve\n\u2028?", "n": 3}])
    assert path == tmp_path / "snapshots" / "mine.jsonl"
    assert read(path) == [{"q": "Who?", "a": "me"}, {"q": "naïve\n\u2028?", "n": 3}]
    facts = snapshot_facts(path)
    assert facts
    assert (facts["rows"], facts["columns"]) == (2, ["q", "a", "n"])
    assert facts["bytes"] == path.stat().st_size
    assert sorted(p.name for p in path.parent.iterdir()) == ["mine.json", "mine.jsonl"]


def test_named_by_content_the_same_rows_are_not_written_twice(tmp_path: Path) -> None:
    first = snapshot(tmp_path, None, [{"text": "a"}])
    before = first.stat()
    assert snapshot(tmp_path, None, iter([{"text": "a"}])) == first
    assert (first.stat().st_mtime_ns, first.stat().st_ino) == (before.st_mtime_ns, before.st_ino)
    assert snapshot(tmp_path, None, [{"text": "b"}]) != first


def test_a_damaged_snapshot_is_not_taken_for_a_whole_one(tmp_path: Path) -> None:
    path = snapshot(tmp_path, None, [{"text": "abc"}])
    path.write_text('{"text": "xyz"}\n', encoding="utf-8")  # as long as before
    assert read(snapshot(tmp_path, None, [{"text": "abc"}])) == [{"text": "abc"}]
    path.write_text('{"te', encoding="utf-8")
    assert snapshot_facts(path) is None


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC), "2024-01-02 03:04:05+00:00"),
        (date(2024, 1, 2), "2024-01-02"),
        (timedelta(days=1, seconds=2), "1 day, 0:00:02"),
        (Decimal("1.50"), "1.50"),
        (uuid.UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (ip_address("::1"), "::1"),
        (np.float32(0.5), 0.5),
        (np.array([[1, 2]]), [[1, 2]]),
        (("a", "b"), ["a", "b"]),
        (2**80, 2**80),
        (True, True),
    ],
    ids=lambda v: type(v).__name__,
)  # fmt: skip
def test_values_that_json_lacks(tmp_path: Path, value: Any, written: Any) -> None:
    assert read(snapshot(tmp_path, None, [{"v": value}])) == [{"v": written}]


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (b"\x00\x01", "column `v`: 2 bytes"),
        (memoryview(b"abc"), "column `v`: 3 bytes"),
        (float("nan"), "column `v`: nan is not a number"),
        (float("-inf"), "column `v`: -inf is not a number"),
        (Decimal("NaN"), "column `v`: NaN is not a number"),
        ({1, 2}, "column `v`: a value of type set"),
        ({1: "a"}, "column `v`: the key 1 is int"),
        ([{"deep": [b"x"]}], "column `v.0.deep.0`: 1 bytes"),
        (["ok", {"content": "a\ud800b"}], r"column `v.1.content`: half a surrogate pair (\ud800)"),
    ],
)
def test_values_with_no_json_form_are_told_by_row_and_column(
    tmp_path: Path, value: Any, said: str
) -> None:
    with pytest.raises(Unusable) as raised:
        snapshot(tmp_path, "k", [{"v": 1}, {"v": value}], name="table t", code="LF514", hint="do")
    assert raised.value.name == "table t"
    assert said in raised.value.fault.what
    assert "in row 2 " in raised.value.fault.what
    assert (raised.value.fault.code, raised.value.fault.hint) == ("LF514", "do")
    assert list((tmp_path / "snapshots").iterdir()) == []


def test_a_value_that_holds_itself(tmp_path: Path) -> None:
    row: dict[str, Any] = {}
    row["self"] = row
    with pytest.raises(Unusable, match="holds itself"):
        snapshot(tmp_path, None, [row])


def test_a_source_that_fails_half_way_leaves_the_old_snapshot(tmp_path: Path) -> None:
    path = snapshot(tmp_path, "k", [{"text": "old"}])

    def broken() -> Iterator[dict[str, Any]]:
        yield {"text": "new"}
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError):
        snapshot(tmp_path, "k", broken())
    assert read(path) == [{"text": "old"}]
    assert len(list(path.parent.iterdir())) == 2


def test_many_writers_of_one_snapshot(tmp_path: Path) -> None:
    rows = [{"text": f"row {n}"} for n in range(500)]
    found: list[Path] = []

    def write() -> None:
        found.append(snapshot(tmp_path, None, iter(rows)))

    threads = [threading.Thread(target=write) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert len(set(found)) == 1
    assert read(found[0]) == rows
    assert len(list(found[0].parent.iterdir())) == 2


@pytest.mark.parametrize("key", ["../up", "a/b", "", "."])
def test_a_key_cannot_lead_out_of_the_cache(tmp_path: Path, key: str) -> None:
    with pytest.raises(ValueError, match="name of a snapshot"):
        snapshot(tmp_path, key, [])


def test_a_list_of_texts(tmp_path: Path) -> None:
    path = from_list(["one", "two\nlines"], cache=str(tmp_path))
    assert [raw.values for raw in JsonlPart(path, Path(path)).rows()] == [
        {"text": "one"},
        {"text": "two\nlines"},
    ]


def test_a_list_of_texts_in_parts_and_of_mappings(tmp_path: Path) -> None:
    rows = ["2 + 2 = <cut>4", {"prompt": "a", "completion": "b"}]
    assert read(Path(from_list(rows, separator="<cut>", cache=str(tmp_path)))) == [
        {"text_parts": ["2 + 2 = ", "4"]},
        {"prompt": "a", "completion": "b"},
    ]


def test_a_list_is_found_from_the_working_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = from_list(["a"])
    assert path.startswith(".llmforge/snapshots/")
    assert path == from_list(["a"])


@pytest.mark.parametrize(
    ("rows", "error", "said"),
    [
        ("a text", TypeError, "rows is str"),
        ({"text": "a"}, TypeError, "rows is dict"),
        (["a", 5], TypeError, "row 2 is int"),
        ([{"text": b"a"}], ValueError, "row 1 column `text`"),
    ],
)
def test_what_is_no_list_of_rows(tmp_path: Path, rows: Any, error: Any, said: str) -> None:
    with pytest.raises(error, match=said):
        from_list(rows, cache=str(tmp_path))


def test_an_empty_separator(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="empty separator"):
        from_list(["a"], separator="", cache=str(tmp_path))


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
NUMBERS = st.integers() | st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=6))
def test_what_is_read_is_what_was_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, Any]]
) -> None:
    path = snapshot(tmp_path_factory.mktemp("any"), None, rows)
    found = list(JsonlPart("rows", path).rows())
    assert [raw.values for raw in found] == rows
    assert [raw.line for raw in found] == list(range(1, len(rows) + 1))
