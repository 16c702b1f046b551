"""JSON Lines: every line a row or a fault, and nothing read that does not stand there."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.sources import decoding
from llmforge.sources.base import Fault, Raw
from llmforge.sources.jsonl import DEEPEST, JsonlPart, doubt

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip
ROWS = st.lists(st.dictionaries(st.text(st.characters(codec="utf-8")), JSON, max_size=4))


def read(tmp_path: Path, content: bytes | str) -> list[Raw]:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return list(JsonlPart("rows.jsonl", path).rows())


def fault(tmp_path: Path, line: str) -> Fault:
    """Of a line between two good ones, which are read."""
    before, found, after = read(tmp_path, '{"a": "ä"}\n' + line + '\n{"b": 2}\n')
    assert (before.values, after.values) == ({"a": "ä"}, {"b": 2})
    assert (before.line, found.line, after.line) == (1, 2, 3)
    assert found.fault is not None
    return found.fault


@given(rows=ROWS, ascii_only=st.booleans(), end=st.sampled_from(["\n", "\r\n", "\n\n", " \n"]))
@settings(max_examples=50)
def test_what_json_writes_comes_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list, ascii_only: bool, end: str
) -> None:
    text = "".join(json.dumps(row, ensure_ascii=ascii_only) + end for row in rows)
    found = read(tmp_path_factory.mktemp("rows"), text)
    assert [raw.values for raw in found] == rows
    step = 2 if end == "\n\n" else 1
    assert [raw.line for raw in found] == list(range(1, step * len(rows) + 1, step))


@given(st.lists(st.sampled_from([b'{"a": 1}', b'{"a": 1', b"[]", b"", b" ", b"\0", b'{"a":NaN}',
                                 b'{"a":1,"a":2}', b'{"a":"\\ud800"}', b"{}}"])))  # fmt: skip
@settings(max_examples=50)
def test_no_line_is_lost(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    found = read(tmp_path_factory.mktemp("rows"), b"\n".join(lines))
    assert [raw.line for raw in found] == [n for n, line in enumerate(lines, 1) if line.strip()]
    for raw in found:
        assert (raw.fault is None) == (lines[raw.line - 1] == b'{"a": 1}')


def test_a_mistake_has_its_column(tmp_path: Path) -> None:
    found = fault(tmp_path, '{"prompt": "How many legs has a bee?", "completion": "6"')
    assert (found.code, found.column) == ("LF504", 57)
    assert found.what == "is not valid JSON: Expecting ',' delimiter"
    assert found.sample == '{"prompt": "How many legs has a bee?", "completion": "6"'
    assert found.hint == "mend or remove that line: sed -n 2p rows.jsonl"


@pytest.mark.parametrize(
    ("line", "what", "column"),
    [
        ('{"a": 1, "b": {"c": 1, "\\u0063": 2}}', "gives `c` twice in one object", 24),
        ('{"a": [NaN]}', "holds NaN, which is not JSON", 8),
        ('{"a": -Infinity}', "holds -Infinity, which is not JSON", 7),
        ('{"a": 1e400}', "holds a number that is too large: 1e400", 7),
        ('{"a": ' + "[" * DEEPEST + "]" * DEEPEST + "}",
         "is nested too deeply: more than 100 levels", 106),
        ('{"a": "\0"}', "holds a NUL byte, which JSON writes as \\u0000", 8),
    ],
)  # fmt: skip
def test_json_that_is_no_row(tmp_path: Path, line: str, what: str, column: int) -> None:
    found = fault(tmp_path, line)
    assert (found.code, found.what, found.column) == ("LF504", what, column)


def test_nesting_just_allowed(tmp_path: Path) -> None:
    deep = "[" * (DEEPEST - 1) + "]" * (DEEPEST - 1)
    (raw,) = read(tmp_path, '{"a": ' + deep + "}")
    assert raw.values == {"a": json.loads(deep)}


def test_a_lone_surrogate_cannot_be_written(tmp_path: Path) -> None:
    found = fault(tmp_path, '{"text": "ab", "more": ["\\uD83D!"]}')
    assert (found.code, found.column) == ("LF503", 25)
    assert found.what == "holds half of a character: \\ud83d without its other half"
    assert read(tmp_path, '{"a": "\\ud83d\\ude00 \\\\ud83d"}')[0].values == {"a": "😀 \\ud83d"}


def test_a_key_may_stand_in_different_objects(tmp_path: Path) -> None:
    (raw,) = read(tmp_path, '{"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}')
    assert raw.values == {"a": {"a": 1}, "b": [{"a": 1}, {"a": 2}]}


def test_the_sample_of_a_long_line_shows_the_fault(tmp_path: Path) -> None:
    found = fault(tmp_path, '{"a": "' + "x" * 5000 + '", "here": NaN}')
    assert '"here": NaN}' in found.sample
    assert len(found.sample) <= 80
    assert str(found.hint).endswith("sed -n 2p rows.jsonl | cut -c 4819-5219")


def test_the_last_line_may_have_been_cut(tmp_path: Path) -> None:
    *_, last = read(tmp_path, '{"a": 1}\n{"a": "b')
    assert last.fault is not None
    assert "cut short" in last.fault.notes[0]


@pytest.mark.parametrize(
    ("content", "code"),
    [
        ('[\n{"a": 1}\n]', "LF504"),
        ('{\n"a": 1\n}', "LF504"),
        ("<html>\n</html>", "LF504"),
        ('{"a": "ß "}\n{"a": 1}\n'.encode("latin-1"), "LF503"),
        ('{"a": 1}\n{"a": 1}\n'.encode("utf-16-le"), "LF503"),
    ],
)
def test_a_file_of_another_kind_is_told_once(
    tmp_path: Path, content: bytes | str, code: str
) -> None:
    (raw,) = read(tmp_path, content)
    assert raw.fault is not None
    assert (raw.line, raw.fault.code, raw.fault.ends) == (1, code, True)


def test_a_row_beyond_the_limit_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LONGEST_ROW", 1 << 20)
    found = fault(tmp_path, '{"a": "' + "x" * (1 << 20) + '"}')
    assert found.what == "is longer than 1 MiB, the most that a row may have"


def test_doubt_always_says_something() -> None:
    assert doubt('{"a": 1}') == (0, Fault("LF504", "is not JSON that can be read"))


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept by Linux only")
def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    line = json.dumps({"text": "spider " * 1000}) + "\n"
    path = tmp_path / "rows.jsonl"
    path.write_text(line * 20_000, encoding="utf-8")  # 140 MB
    code = (
        "import sys; from pathlib import Path; from llmforge.sources.jsonl import JsonlPart;"
        "print(sum(1 for _ in JsonlPart('x', Path(sys.argv[1])).rows()))"
    )

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (100 << 20, 100 << 20))

    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True,
                          preexec_fn=limit, check=False)  # fmt: skip
    assert done.stdout == "20000\n", done.stderr
