"""The built-in pairs: a right answer, and one that is wrong and looks right."""

from __future__ import annotations

from llmforge.samples.conversations import SKILLS, generate
from llmforge.samples.pairs import pair


def test_every_wrong_answer_is_another_one():
    rows = generate(0, 600)
    assert {row["skill"] for row in rows} == set(SKILLS)
    for row in rows:
        made = pair(row, 0)
        assert [*made["prompt"], made["chosen"]] == row["messages"]
        assert made["rejected"]["content"] != made["chosen"]["content"]


def test_the_question_is_kept_in_the_wrong_answer():
    [row] = [row for row in generate(0, 50) if "Italy" in row["messages"][-1]["content"]][:1]
    wrong = pair(row, 0)["rejected"]["content"]
    assert wrong.startswith("The capital of Italy is ")
    assert "Rome" not in wrong


def test_the_same_seed_gives_the_same_pairs():
    rows = generate(1, 40)
    assert [pair(row, 5) for row in rows] == [pair(row, 5) for row in rows]
    assert [pair(row, 5) for row in rows] != [pair(row, 6) for row in rows]
