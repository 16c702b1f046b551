"""The window on a JSON file: where it stands, and where it stops."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.sources import decoding, json_text
from llmforge.sources.files import opened
from llmforge.sources.json_text import Ends, Text


def text(tmp_path: Path, content: str) -> Text:
    path = tmp_path / "rows.json"
    path.write_text(content, encoding="utf-8")
    return Text(opened(path), "rows.json")


def test_it_knows_line_and_column(tmp_path: Path) -> None:
    window = text(tmp_path, '\n [1,\n  "ä\\n", {"a": 2}]')
    assert window.take("[", "a list") == "["
    assert (window.value(), window.line, window.column) == ((1, None), 2, 4)
    assert window.take(",", "a comma") == ","
    assert window.peek() == '"'
    assert (window.line, window.column) == (3, 3)
    assert (window.value(), window.column) == (("ä\n", None), 8)


def test_a_number_at_the_end_of_a_piece_is_read_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(json_text, "CHUNK", 1)
    assert text(tmp_path, "12345.25 ").value() == (12345.25, None)


def test_what_is_wanted_has_to_come(tmp_path: Path) -> None:
    with pytest.raises(Ends) as caught:
        text(tmp_path, "\n  ]").take("[", "Expecting a list")
    assert (caught.value.line, caught.value.fault.column) == (2, 3)
    assert caught.value.fault.what == "is not valid JSON: Expecting a list"


def test_a_value_beyond_the_limit_ends_the_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoding, "LONGEST_ROW", 1 << 20)
    with pytest.raises(Ends) as caught:
        text(tmp_path, '"' + "x" * (4 << 20) + '"').value()
    assert caught.value.fault.what == "is longer than 1 MiB, the most that a row may have"
    assert caught.value.fault.ends, "what is behind it cannot be found"
