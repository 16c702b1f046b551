"""Lines of the keys of a JSON or YAML text."""

from __future__ import annotations

from llmforge.compose.lines import key_lines


def test_keys_know_their_lines():
    text = '{\n\t"a": 1,\n\t"b": {\n\t\t"c": [2],\n\t\t"d": 3\n\t}\n}'
    assert key_lines(text) == {"a": 2, "b": 3, "b.c": 4, "b.d": 5}


def test_a_text_that_is_neither_has_none():
    assert key_lines("{a: [") == {}
    assert key_lines("") == {}
