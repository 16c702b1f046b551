"""JSON files piece by piece: the same rows as reading them whole, at the lines where they begin."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.sources import json_text
from llmforge.sources.base import Raw, Unusable
from llmforge.sources.json_list import JsonPart

TEXT = st.text(st.characters(codec="utf-8"), max_size=30)
VALUES = st.integers() | TEXT | st.none() | st.lists(TEXT, max_size=3)
ROWS = st.lists(st.dictionaries(TEXT, VALUES, max_size=3), max_size=8)


def read(tmp_path: Path, content: bytes | str) -> list[Raw]:
    path = tmp_path / "rows.json"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(JsonPart("rows.json", path).rows())


@given(rows=ROWS, indent=st.sampled_from([None, 0, 2]), chunk=st.integers(1, 40),
       ascii_only=st.booleans())  # fmt: skip
@settings(max_examples=50)
def test_rows_do_not_depend_on_where_the_file_is_cut_into_pieces(
    tmp_path_factory: pytest.TempPathFactory, rows: list, indent: int | None, chunk: int,
    ascii_only: bool,
) -> None:  # fmt: skip
    text = json.dumps(rows, indent=indent, ensure_ascii=ascii_only)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_text, "CHUNK", chunk)
        found = read(tmp_path_factory.mktemp("rows"), text)
    assert [raw.values for raw in found] == rows
    lines = text.split("\n")
    for raw in found:
        assert lines[raw.line - 1].lstrip().startswith(("{", "[{"))


@given(rows=ROWS.filter(bool), cut=st.floats(0.0, 0.999))
@settings(max_examples=50)
def test_a_file_cut_anywhere_ends_with_a_fault(
    tmp_path_factory: pytest.TempPathFactory, rows: list, cut: float
) -> None:
    raw = json.dumps(rows, ensure_ascii=False, indent=1).encode()
    *whole, last = read(tmp_path_factory.mktemp("rows"), raw[: max(1, int(len(raw) * cut))])
    assert [each.values for each in whole] == rows[: len(whole)]
    assert last.fault is not None
    assert last.fault.ends


def test_a_mistake_has_its_line_and_column(tmp_path: Path) -> None:
    first, second = read(tmp_path, '[{"a": 1},\n  {"b": 2\n   "c": 3},\n {"d": 4}]')
    assert first.values == {"a": 1}
    assert second.fault is not None
    assert (second.line, second.fault.column, second.fault.ends) == (3, 4, True)
    assert second.fault.what == "is not valid JSON: Expecting ',' delimiter"


def test_a_mistake_far_into_the_file_has_its_line(tmp_path: Path) -> None:
    numbers = random.Random(0)  # noqa: S311 - test data, not secrets
    rows = [json.dumps({"n": numbers.random(), "t": "x" * numbers.randrange(400)})
            for _ in range(5000)]  # fmt: skip
    rows[4000] = rows[4000].replace(":", ";", 1)
    *good, bad = read(tmp_path, "[\n" + ",\n".join(rows) + "\n]")
    assert (len(good), bad.line) == (4000, 4002)
    assert [raw.line for raw in good] == list(range(2, 4002))


def test_a_doubtful_row_is_passed_over(tmp_path: Path) -> None:
    found = read(
        tmp_path, '[{"a": 1},\n{"b": 1,\n "b": 2}, {"c": NaN},\n3, {"d": "\\udc00"}, {"e": 1}]'
    )
    codes = [raw.fault.code if raw.fault else None for raw in found]
    assert codes == [None, "LF504", "LF504", "LF504", "LF503", None]
    assert [raw.line for raw in found] == [1, 2, 3, 4, 4, 4]
    assert found[1].fault is not None
    assert found[1].fault.what == "gives `b` twice in one object (line 3)"
    assert found[5].values == {"e": 1}


def test_the_list_may_stand_in_an_object(tmp_path: Path) -> None:
    text = (
        '{"version": 1, "tags": ["a", ["b"]], "none": [], "data": [{"a": 1},\n{"a": 2}], "n": {}}'
    )
    assert [(raw.line, raw.values) for raw in read(tmp_path, text)] == [
        (1, {"a": 1}),
        (2, {"a": 2}),
    ]


def test_two_lists_are_one_too_many(tmp_path: Path) -> None:
    *_, last = read(tmp_path, '{"train": [{"a": 1}],\n "test": [{"a": 2}]}')
    assert last.fault is not None
    assert last.fault.what == "holds a second list of objects, `test`, beside `train`"
    assert (last.line, last.fault.ends) == (2, True)


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        ('{"a": 1}\n{"a": 2}\n', "data=jsonl data.train=rows.json"),
        (
            '{"a": {"0": 1, "1": 2}}',
            'write rows, not columns; in pandas: to_json(path, orient="records")',
        ),
        ('{"a": [1, 2]}', "put the rows into one list: [{...}, {...}]"),
        ("{}", "put the rows into one list: [{...}, {...}]"),
    ],
)  # fmt: skip
def test_an_object_without_a_list_of_rows(tmp_path: Path, content: str, hint: str) -> None:
    with pytest.raises(Unusable, match=r"rows\.json holds no list of objects") as caught:
        read(tmp_path, content)
    assert (caught.value.fault.code, caught.value.fault.hint) == ("LF504", hint)


def test_lines_of_chats_are_not_taken_for_one_list(tmp_path: Path) -> None:
    *_, last = read(tmp_path, '{"messages": [{"role": "user"}]}\n{"messages": []}\n')
    assert last.fault is not None
    assert (last.fault.hint, last.fault.ends) == ("data=jsonl data.train=rows.json", True)


@pytest.mark.parametrize("content", ["", " \n", "[]", "\ufeff[ ]", '{"data": []}'])
def test_nothing_is_no_fault(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == []


def test_other_encodings_end_the_part(tmp_path: Path) -> None:
    first, second = read(tmp_path, '[{"a": 1},\n\n{"b": "Jörg"}]'.encode("latin-1"))
    assert first.values == {"a": 1}
    assert second.fault is not None
    assert (second.line, second.fault.code, second.fault.column) == (3, "LF503", 9)
    for encoding in ("utf-16", "utf-16-le", "utf-32"):
        (raw,) = read(tmp_path, '[{"prompt": "a"}]'.encode(encoding))
        assert raw.fault is not None
        assert (raw.fault.code, raw.fault.ends) == ("LF503", True)
