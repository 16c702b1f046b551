"""Arrow values as JSON values."""

from __future__ import annotations

import datetime as dt
import decimal
import json
import math
from typing import Any

import pyarrow as pa
import pytest

from llmforge.sources.arrow_values import Binary, converter


def converted(values: list[Any], kind: pa.DataType | None = None) -> list[Any]:
    array = pa.array(values, kind)
    convert = converter(array.type)
    found = [convert(value) for value in array.to_pylist()]
    json.dumps(found, allow_nan=False)
    return found


def test_plain_values_stay() -> None:
    for values in ([1, None], ["a", None], [True, None], [0.5, None], [["a"], None], [None]):
        assert converted(values) == values


def test_numbers_that_json_lacks_become_null() -> None:
    assert converted([math.nan, math.inf, 1.5]) == [None, None, 1.5]
    assert converted([[math.nan], None]) == [[None], None]


def test_dates_and_decimals_become_text() -> None:
    assert converted([dt.date(2024, 1, 1), None]) == ["2024-01-01", None]
    assert converted([dt.datetime(2024, 1, 1, 12)]) == ["2024-01-01 12:00:00"]  # noqa: DTZ001 - Arrow's has no zone either
    assert converted([decimal.Decimal("1.50")]) == ["1.50"]


def test_keys_that_hold_null_are_left_out_of_structs() -> None:
    turns = [[{"role": "user", "content": "a"}, {"role": "tool", "content": None, "id": 1}], []]
    assert converted(turns) == [
        [{"role": "user", "content": "a"}, {"role": "tool", "id": 1}], []
    ]  # fmt: skip


def test_maps_and_dictionaries() -> None:
    assert converted([[("a", 1)], None], pa.map_(pa.string(), pa.int64())) == [{"a": 1}, None]
    words = pa.array(["a", "a"]).dictionary_encode()
    assert [converter(words.type)(value) for value in words.to_pylist()] == ["a", "a"]
    with pytest.raises(ValueError, match="a key twice"):
        converted([[("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int64()))


def test_json_columns_are_parsed() -> None:
    convert = converter(pa.json_())
    assert [convert('{"a": [1]}'), convert(None)] == [{"a": [1]}, None]


def test_bytes_have_no_json() -> None:
    for kind in (pa.binary(), pa.large_binary(), pa.binary(4), pa.list_(pa.binary()),
                 pa.struct([("a", pa.binary())]), pa.binary_view()):  # fmt: skip
        with pytest.raises(Binary):
            converter(kind)
    assert converted([{"path": "x.png", "bytes": b"x"}]) == [{"path": "x.png"}]
