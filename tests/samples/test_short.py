"""The built-in example with short answers: the same questions, the part that was asked for."""

from __future__ import annotations

import pytest

from llmforge.samples import words
from llmforge.samples.conversations import SKILLS, generate
from llmforge.samples.short import ASKED, shorten


def test_every_answer_is_a_part_of_the_sentence():
    rows = generate(0, 600)
    assert {row["skill"] for row in rows} == set(SKILLS)
    for row in rows:
        for long, short in zip(row["messages"], shorten(row), strict=True):
            if short != long:
                assert short["role"] == "assistant"
                word = short["content"].removeprefix("Answer: ").removesuffix(".")
                assert word in long["content"]
        assert shorten(row)[-1]["content"].startswith("Answer: ")


@pytest.mark.parametrize(
    ("word", "answer"),
    [("Italy", "Answer: Rome."), ("greater than 3.", "Answer: Yes."), ("plus 7 is", "Answer: 9.")],
)
def test_what_was_asked_for_is_left(word, answer):
    rows = [row for row in generate(0, 4000) if word in row["messages"][-1]["content"]]
    found = {shorten(row)[-1]["content"] for row in rows}
    assert answer in found


def test_every_kind_of_question_has_its_short_answer():
    assert set(ASKED) == set(words.ANSWERS)
