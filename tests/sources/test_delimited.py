"""Delimited files: what the csv module writes comes back as text, and the rest is told."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.sources.base import Fault, Raw, Unusable
from llmforge.sources.delimited import DelimitedPart

VALUE = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
TABLE = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(VALUE, min_size=width, max_size=width), max_size=6)
)


def read(tmp_path: Path, content: bytes | str, delimiter: str = ",", quote: str | None = '"',
         header: bool = True) -> list[Raw]:  # fmt: skip
    path = tmp_path / "rows.csv"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(DelimitedPart("rows.csv", path, delimiter, quote, header).rows())


def values(found: list[Raw]) -> list[list[str]]:
    return [list(raw.values.values()) if raw.values is not None else [] for raw in found]


def fault(found: Raw) -> Fault:
    assert found.fault is not None
    return found.fault


@given(table=TABLE, delimiter=st.sampled_from(",;\t|"), quote=st.sampled_from("\"'"),
       end=st.sampled_from(["\n", "\r\n"]))  # fmt: skip
@settings(max_examples=50)
def test_what_the_csv_module_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, table: list[list[str]], delimiter: str, quote: str,
    end: str,
) -> None:  # fmt: skip
    made = io.StringIO()
    writer = csv.writer(made, delimiter=delimiter, quotechar=quote, lineterminator=end,
                        quoting=csv.QUOTE_ALL)  # fmt: skip
    writer.writerows(table)
    tmp_path = tmp_path_factory.mktemp("rows")
    found = read(tmp_path, made.getvalue(), delimiter, quote, header=False)
    assert values(found) == table


def test_values_stay_the_text_they_are(tmp_path: Path) -> None:
    (raw,) = read(tmp_path, "a,b,c,d,e,f\n001,NA,2024-01-01,,null, 1e5 \n")
    assert raw.values == {"a": "001", "b": "NA", "c": "2024-01-01", "d": "", "e": "null",
                          "f": " 1e5 "}  # fmt: skip


def test_a_row_has_the_line_where_it_begins(tmp_path: Path) -> None:
    found = read(tmp_path, 'a,b\n\n1,"x\r\ny\n\nz"\n   \n2,w\n')
    assert [(raw.line, raw.values) for raw in found] == [
        (3, {"a": "1", "b": "x\r\ny\n\nz"}), (8, {"a": "2", "b": "w"})
    ]  # fmt: skip


def test_without_a_header_columns_are_numbered(tmp_path: Path) -> None:
    assert read(tmp_path, "x,y\n", header=False)[0].values == {"1": "x", "2": "y"}


def test_without_a_quote_quotes_are_text(tmp_path: Path) -> None:
    assert read(tmp_path, 'a\tb\n"x\ty"z\n', "\t", None)[0].values == {"a": '"x', "b": 'y"z'}


def test_a_ragged_row_has_both_counts(tmp_path: Path) -> None:
    short, long, good = read(tmp_path, "a,b\n1\n1,2,3\n1,2\n")
    assert (fault(short).code, fault(short).what) == ("LF504", "has 1 value for 2 columns")
    assert fault(long).what == "has 3 values for 2 columns"
    assert fault(long).sample == "1,2,3"
    assert fault(long).hint == "mend or remove that line: sed -n 3p rows.csv"
    assert good.values == {"a": "1", "b": "2"}


def test_a_quote_that_is_not_doubled_is_told_and_the_next_row_read(tmp_path: Path) -> None:
    bad, good = read(tmp_path, 'a,b\n1,"say "hi""\n1,2\n')
    assert fault(bad).what == 'has a quote " inside a value that is not doubled'
    assert good.values == {"a": "1", "b": "2"}


def test_an_open_quote_ends_the_part_when_it_takes_rows_with_it(tmp_path: Path) -> None:
    (last,) = read(tmp_path, 'a,b\n1,"open')
    assert (last.line, fault(last).ends) == (2, False)
    first, taken = read(tmp_path, 'a,b\n1,2\n3,"open\n4,5\n6,7\n')
    assert first.values == {"a": "1", "b": "2"}
    assert (taken.line, fault(taken).ends) == (3, True)
    assert fault(taken).notes == ("inside the quotes: all 2 lines after it",)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("a,b,a\n", "names two columns `a`"),
        (",a\n0,1\n", "leaves the name of column 1 empty"),
        ("a, \n0,1\n", "leaves the name of column 2 empty"),
    ],
)
def test_a_header_names_each_column_once(tmp_path: Path, content: str, what: str) -> None:
    with pytest.raises(Unusable) as caught:
        read(tmp_path, content)
    assert str(caught.value) == f"rows.csv:1 {what}"
    assert caught.value.fault.code == "LF504"


@pytest.mark.parametrize(
    ("content", "hint"), [("a\tb\n", "data=tsv"), ("a;b\n1;2\n", "'data.delimiter=\";\"'")]
)
def test_the_wrong_delimiter_is_guessed(tmp_path: Path, content: str, hint: str) -> None:
    with pytest.raises(Unusable, match="names a single column") as caught:
        read(tmp_path, content)
    assert (caught.value.fault.hint, caught.value.fault.key) == (hint, "delimiter")


def test_a_single_column_is_a_table_too(tmp_path: Path) -> None:
    assert values(read(tmp_path, 'text\n"a, b"\nc d\n""\n')) == [["a, b"], ["c d"], [""]]


@pytest.mark.parametrize(("delimiter", "quote"), [("\n", '"'), (",", ",")])
def test_a_delimiter_that_cannot_be_one_is_refused(
    tmp_path: Path, delimiter: str, quote: str
) -> None:
    with pytest.raises(Unusable, match="cannot be read with") as caught:
        read(tmp_path, "a,b\n", delimiter, quote)
    assert caught.value.fault.key == "delimiter"


def test_a_fault_of_the_header_ends_the_part(tmp_path: Path) -> None:
    (raw,) = read(tmp_path, "a,b\0\n1,2\n3,4\n")
    assert (raw.line, fault(raw).what, fault(raw).ends) == (1, "holds a NUL byte", True)
    first, second = read(tmp_path, "a,b\0\n1,2\n", header=False)
    assert (fault(first).ends, second.values) == (False, {"1": "1", "2": "2"})


def test_a_long_value_is_no_fault(tmp_path: Path) -> None:
    (raw,) = read(tmp_path, 'a,b\n1,"' + "x\n" * 500_000 + '"\n')
    assert raw.values == {"a": "1", "b": "x\n" * 500_000}


def test_another_encoding_is_told_once(tmp_path: Path) -> None:
    (raw,) = read(tmp_path, 'a,b\n1,"x\nJörg"\nJörg,2\n'.encode("latin-1"))
    assert (raw.line, fault(raw).code, fault(raw).ends) == (2, "LF503", True)
    good, bad, after = read(tmp_path, "a,b\nJörg,1\n".encode() + b"\xff,2\n3,4\n")
    assert (good.values, after.values) == ({"a": "Jörg", "b": "1"}, {"a": "3", "b": "4"})
    assert (bad.line, fault(bad).code, fault(bad).ends) == (3, "LF503", False)


@pytest.mark.parametrize("content", ["", "\n\n", "a,b\n", "\ufeffa,b\n"])
def test_no_rows_are_no_fault(tmp_path: Path, content: str) -> None:
    assert read(tmp_path, content) == []
