"""The built-in example with short answers: the same questions, the part that was asked for."""

from __future__ import annotations

import pytest

from llmforge.samples import words
from llmforge.samples.conversations import SKILLS, generate
from llmforge.samples.short import SHORT, shorten


def test_every_answer_is_a_part_of_the_sentence():
    rows = generate(0, 600)
    assert {row["skill"] for row in rows} == set(SKILLS)
    for row in rows:
        for long, short in zip(row["messages"], shorten(row), strict=True):
            assert short["content"] in long["content"]
            if short != long:
                assert short["role"] == "assistant"
        assert len(shorten(row)[-1]["content"]) < len(row["messages"][-1]["content"])


@pytest.mark.parametrize(
    ("word", "answer"), [("Italy", "Rome"), (" greater than 3.", "Yes"), ("plus 7 is", "9")]
)
def test_what_was_asked_for_is_left(word, answer):
    rows = [row for row in generate(0, 4000) if word in row["messages"][-1]["content"]]
    found = {shorten(row)[-1]["content"] for row in rows}
    assert answer in found
    assert not any("." in text for text in found)


def test_every_kind_of_question_has_its_short_answer():
    assert set(SHORT) == set(words.ANSWERS)
