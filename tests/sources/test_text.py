"""Plain text by line, by paragraph, as a whole."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.sources.base import Raw
from llmforge.sources.text import TextPart, Unit

STORY = "One\r\nTwo \n\n \n Three\nFour\n"


def read(tmp_path: Path, content: bytes | str, unit: Unit = "line") -> list[Raw]:
    path = tmp_path / "story.txt"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(TextPart("story.txt", path, unit).rows())


@pytest.mark.parametrize(
    ("unit", "rows"),
    [
        ("line", [(1, "One"), (2, "Two "), (5, " Three"), (6, "Four")]),
        ("paragraph", [(1, "One\nTwo "), (5, " Three\nFour")]),
        ("file", [(1, "One\nTwo \n\n \n Three\nFour")]),
    ],
)
def test_units(tmp_path: Path, unit: Unit, rows: list[tuple[int, str]]) -> None:
    found = read(tmp_path, STORY, unit)
    assert [(raw.line, raw.values) for raw in found] == [(n, {"text": text}) for n, text in rows]


@given(st.text(st.characters(codec="utf-8", exclude_characters="\0\r")))
@settings(max_examples=50)
def test_every_unit_holds_the_same_words(
    tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    tmp_path = tmp_path_factory.mktemp("text")
    text = text.removeprefix("\ufeff")
    for unit in ("line", "paragraph", "file"):
        rows = [raw.values["text"] for raw in read(tmp_path, text, unit) if raw.values]
        assert "\n".join(rows).split() == text.split()


@pytest.mark.parametrize("unit", ["line", "paragraph", "file"])
@pytest.mark.parametrize("content", ["", "\n \r\n\t\n", b"\xef\xbb\xbf"])
def test_blank_files_have_no_rows(tmp_path: Path, unit: Unit, content: bytes | str) -> None:
    assert read(tmp_path, content, unit) == []


def test_a_nul_byte_spoils_its_unit_only(tmp_path: Path) -> None:
    one, two, three = read(tmp_path, "one\ntw\0o\nthree\n")
    assert (one.values, three.values) == ({"text": "one"}, {"text": "three"})
    assert two.fault is not None
    assert (two.line, two.fault.code, two.fault.column) == (2, "LF504", 3)
    first, second = read(tmp_path, "one\n\ntwo\nth\0ree\n", "paragraph")
    assert first.values == {"text": "one"}
    assert second.fault is not None
    assert (second.line, second.fault.what) == (3, "holds a NUL byte (line 4)")


@pytest.mark.parametrize("unit", ["line", "paragraph", "file"])
@pytest.mark.parametrize("encoding", ["latin-1", "utf-16", "utf-16-le"])
def test_another_encoding_is_told_once(tmp_path: Path, unit: Unit, encoding: str) -> None:
    (raw,) = read(tmp_path, "Jörg is here\nJörg was there\n".encode(encoding), unit)
    assert raw.fault is not None
    assert (raw.line, raw.fault.code, raw.fault.ends) == (1, "LF503", True)
