"""Every row of a part comes out as a row of a shape, or dropped with its reason."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.sources.base import Raw
from llmforge.sources.flow import HELD_OUT, Dropped, Flow, Kept
from llmforge.sources.jsonl import JsonlPart


@dataclass(frozen=True)
class Lines:
    """A real file of these lines, read by the JSONL reader."""

    lines: list[str]
    folder: Path
    name: str = "rows.jsonl"

    @property
    def file(self) -> Path:
        return self.folder / self.name

    def rows(self) -> Iterator[Raw]:
        self.file.write_text("".join(f"{line}\n" for line in self.lines), encoding="utf-8")
        return JsonlPart(self.name, self.file).rows()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("flow")


@pytest.fixture(scope="module")
def run(source, folder):
    """`run([{"text": "a"}], select=[...])`: everything that comes out."""

    def flow(rows: list[Any], transform: Any = None, **changes: Any) -> list[Kept | Dropped]:
        lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
        if transform is not None:
            changes["transform"] = transform.__name__
        return list(Flow(source(**changes), transform=transform).read(Lines(lines, folder)))

    return flow


def told(item: Kept | Dropped) -> tuple[str, str]:
    """Place, and what became of it."""
    if isinstance(item, Kept):
        return item.row.place, str(item.row.values)
    return item.place, item.reason if item.fault is None else f"{item.reason}: {item.fault.code}"


def test_rows_come_out_in_order_under_their_own_names(run):
    found = run(
        [{"question": "2+2?", "answer": "4", "id": 1}, {"question": "3+3?", "answer": "6"}],
        fields={"prompt": "question", "completion": "answer"},
    )

    assert [told(item) for item in found] == [
        ("rows.jsonl:1", "{'prompt': '2+2?', 'completion': '4'}"),
        ("rows.jsonl:2", "{'prompt': '3+3?', 'completion': '6'}"),
    ]


def test_each_reason_to_drop_a_row(run):
    def keep_short(row: dict[str, Any]) -> dict[str, Any] | None:
        return row if len(row["text"]) < 5 else None

    found = run(
        [{"text": "ok", "lang": "en"}, {"text": "non", "lang": "fr"}, "{", {"lang": "en"},
         {"text": "too long", "lang": "en"}],
        select=['lang == "en"'],
        transform=keep_short,
    )  # fmt: skip

    assert [told(item) for item in found] == [
        ("rows.jsonl:1", "{'text': 'ok'}"),
        ("rows.jsonl:2", "not_selected"),
        ("rows.jsonl:3", "bad: LF504"),
        ("rows.jsonl:4", "bad: LF515"),  # the transform raised KeyError
        ("rows.jsonl:5", "transformed_away"),
    ]
    assert "transform `keep_short` raise KeyError: 'text'" in found[3].fault.what


def test_the_first_row_decides_the_shape_of_all(run):
    found = run([{"text": "a"}, {"prompt": "a", "completion": "b"}])

    assert told(found[1]) == ("rows.jsonl:2", "bad: LF505")
    assert found[1].fault.what == "has no `text`"


def test_a_transform_may_make_several_rows_or_change_the_columns(run):
    def both_ways(row: dict[str, Any]) -> list[dict[str, Any]]:
        return [{"prompt": row["a"], "completion": row["b"]},
                {"prompt": row.pop("b"), "completion": row["a"]}]  # fmt: skip

    found = run([{"a": "x", "b": "y"}], transform=both_ways)

    assert [told(item) for item in found] == [
        ("rows.jsonl:1", "{'prompt': 'x', 'completion': 'y'}"),
        ("rows.jsonl:1", "{'prompt': 'y', 'completion': 'x'}"),
    ]


@pytest.mark.parametrize("made", ["text", 7, [{"text": "a"}, "b"], [None]])
def test_a_transform_that_makes_no_rows_is_at_fault_for_all(made, run):
    def odd(row: dict[str, Any]) -> Any:
        return made

    (found,) = run([{"text": "a"}], transform=odd)

    assert found.fault.code == "LF515"
    assert found.fault.ends
    assert "not a row, rows or null" in found.fault.what


@pytest.mark.parametrize("said", ["train", *HELD_OUT])
def test_the_fold_column_holds_out(said, run):
    (found,) = run([{"text": "a", "_fold": said}], fold="_fold")

    assert found.held_out is (said != "train")


@pytest.mark.parametrize(
    ("said", "hint"),
    [("dev", "write train or valid there"), (1, "write train or valid there"), (None, "fold=null")],
)
def test_a_fold_of_another_name_is_not_guessed(said, hint, run):
    (found,) = run([{"text": "a", "_fold": said}], fold="_fold")

    assert (found.reason, found.fault.code, found.fault.hint) == ("bad", "LF511", hint)
    assert "neither train nor valid" in found.fault.what


TEXTS = st.sampled_from(["", " ", "short", "longer text", "x" * 200])
ROWS = st.one_of(
    st.fixed_dictionaries({"text": TEXTS | st.none() | st.integers()},
                          optional={"n": st.integers(0, 3), "_fold": st.sampled_from(
                              ["train", "valid", "other"])}),
    st.sampled_from(["{", "[]", "7", '{"text": "a", "text": "b"}', '{"text": "\\ud800"}']),
    st.dictionaries(st.sampled_from(["a", "b"]), st.integers(), max_size=2),
)  # fmt: skip


def copies(row: dict[str, Any]) -> list[dict[str, Any]]:
    """As many rows as `n` says; one where it says nothing."""
    return [row] * row.get("n", 1)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(
    rows=st.lists(ROWS, max_size=12),
    select=st.sampled_from([[], ["n is null"], ["n > 0"], ['text contains "e"', "n != 2"]]),
    fold=st.sampled_from([None, "_fold"]),
    repeat=st.booleans(),
)
def test_no_row_is_lost_and_none_is_told_twice(rows, select, fold, repeat, run, source, folder):
    transform = copies if repeat else None
    # a shape that is given: a first row without columns would otherwise be at fault for all
    found = run(rows, transform, select=select, fold=fold, shape="text")

    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    raws = list(Lines(lines, folder).rows())
    assert len(raws) == len(rows)
    by_line = Counter(item.row.line if isinstance(item, Kept) else item.line for item in found)
    dropped = [item for item in found if isinstance(item, Dropped)]
    early = {item.line for item in dropped if item.reason != "bad"}
    for raw in raws:
        passed = raw.values is not None and raw.line not in early
        made = max(1, raw.values.get("n", 1)) if passed and repeat else 1
        assert by_line.pop(raw.line) == made
    assert not by_line
    for item in dropped:
        assert item.reason in ("bad", "not_selected", "transformed_away")
        assert (item.fault is not None) == (item.reason == "bad")
    again = run(rows, transform, select=select, fold=fold, shape="text")
    assert again == found, "the worker sees what the compiler saw"
