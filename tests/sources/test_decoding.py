"""Lines by their line feeds, and encodings guessed from what is wrong with them."""

from __future__ import annotations

import io

import pytest

from llmforge.sources import decoding
from llmforge.sources.base import Fault
from llmforge.sources.decoding import not_utf8, numbered, show_line


def fault(raw: bytes, *, utf8: bool = False, name: str = "rows.jsonl") -> Fault:
    with pytest.raises(UnicodeDecodeError) as caught:
        raw.decode()
    return not_utf8(name, 7, raw, caught.value, utf8)


def test_only_a_line_feed_ends_a_line() -> None:
    text = "a\rb\u2028c\x0bd\x85e\nf"
    assert list(numbered(io.BytesIO(text.encode()))) == [
        (1, "a\rb\u2028c\x0bd\x85e\n".encode()), (2, b"f")
    ]  # fmt: skip


def test_a_byte_order_mark_is_taken_off_the_first_line_only() -> None:
    lines = [raw for _, raw in numbered(io.BytesIO(b"\xef\xbb\xbfa\n\xef\xbb\xbfb\n"))]
    assert lines == [b"a\n", b"\xef\xbb\xbfb\n"]
    assert list(numbered(io.BytesIO(b"\xef\xbb\xbf"))) == []


def test_a_line_without_end_does_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LONGEST_ROW", 10)
    lines = list(numbered(io.BytesIO(b"short\n" + b"x" * 35 + b"\nnext\n" + b"0123456789\n")))
    assert lines == [(1, b"short\n"), (2, b"x" * 11), (3, b"next\n"), (4, b"0123456789\n")]


@pytest.mark.parametrize(
    ("encoding", "text", "guess"),
    [
        ("latin-1", "Wie heißt du?", "ISO-8859-1"),
        ("cp1252", "“Who?” – me", "WINDOWS-1252"),  # noqa: RUF001 - the dash is the case
        ("utf-16", "Wie heißt du?", "UTF-16"),
        ("utf-32", "Wie heißt du?", "UTF-32"),
        ("utf-16-le", "Wie heißt du?", "UTF-16LE"),
        ("utf-16-be", "Wie heißt du?", "UTF-16BE"),
    ],
)
def test_another_encoding_ends_the_part_with_the_command_that_converts_it(
    encoding: str, text: str, guess: str
) -> None:
    found = fault(f"{text}\n".encode(encoding))
    assert (found.code, found.ends, found.notes) == ("LF503", True, (f"it looks like {guess}",))
    assert found.hint == (
        f"iconv -f {guess} -t UTF-8 rows.jsonl > rows.jsonl.utf8 && mv rows.jsonl.utf8 rows.jsonl"
    )


@pytest.mark.parametrize("encoding", ["koi8-r", "gb18030", "shift_jis", "euc_kr"])
def test_an_encoding_that_cannot_be_told_is_not_guessed(encoding: str) -> None:
    text = {"koi8-r": "Сколько ног", "gb18030": "蜘蛛有几条腿", "shift_jis": "蜘蛛の脚は何本",
            "euc_kr": "거미의 다리는"}[encoding]  # fmt: skip
    found = fault(text.encode(encoding) + b"\n")
    assert found.ends
    assert "ITS-ENCODING" in str(found.hint)


def test_one_bad_byte_in_utf8_is_a_matter_of_that_line() -> None:
    for found in (fault("Jörg ".encode() + b"\xff\n"), fault(b"a\xff\n", utf8=True)):
        assert (found.code, found.ends) == ("LF503", False)
        assert found.hint == "mend or remove that line: sed -n 7p rows.jsonl"


def test_a_packed_file_is_unpacked_in_the_hint() -> None:
    found = fault("Jörg".encode("latin-1") + b"\n", name="my rows.jsonl.gz")
    assert found.hint == (
        "zcat 'my rows.jsonl.gz' | iconv -f ISO-8859-1 -t UTF-8 | gzip > 'my rows.jsonl.gz.utf8'"
        " && mv 'my rows.jsonl.gz.utf8' 'my rows.jsonl.gz'"
    )
    assert show_line("rows.jsonl.xz", 3, 1000) == (
        "xzcat rows.jsonl.xz | sed -n 3p | cut -c 800-1200"
    )
