"""The built-in example with short answers: the same questions, a word in place of a sentence.

In: a row of `conversations.generate`. Out: its messages with every answer cut to what the question
asks for: `The capital of Italy is Rome.` becomes `Answer: Rome.` A model that learnt the sentences
knows these answers, so that a small adapter learns the new form within a minute.

Nothing is drawn here: the same row gives the same messages, and the split is that of the sentences.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from llmforge.samples import conversations as made
from llmforge.samples import words

ASKED: dict[str, str] = {
    "capital": "{capital}",
    "opposite": "{other}",
    "plural": "{many}",
    "young": "{baby}",
    "colour": "{colour}",
    "day after": "{answer}",
    "day before": "{answer}",
    "month after": "{answer}",
    "month before": "{answer}",
    "sum": "{total}",
    "difference": "{rest}",
    "compare": "{verdict}",
    "count": "{numbers}",
    "first item": "{a}",
    "last item": "{c}",
    "home": "{city}",
    "name": "{name}",
}
"""Kind of question -> the slots of its answer that were asked for."""

# A blank before the word, as in the sentence: at the beginning of a text it would be another token,
# which a model that learnt the sentences has hardly seen.
FORM = "Answer: {short}."


def shorten(row: made.Row) -> list[dict[str, Any]]:
    """The row's messages; what is no answer (a greeting, a question) stays as it is."""
    short = _short_answers()
    return [
        {**turn, "content": short.get(turn["content"], turn["content"])}
        if turn["role"] == "assistant"
        else dict(turn)
        for turn in row["messages"]
    ]


@cache
def _short_answers() -> dict[str, str]:
    """Every answer that the tables can make -> the part of it that was asked for."""
    asked_for = {words.ANSWERS[kind]: slots for kind, slots in ASKED.items()}
    return {
        form.answer.format_map(filler): FORM.format(
            short=_first_word_of_verdict(asked_for[form.answer].format_map(filler))
        )
        for form in made.forms()
        for filler in form.fillers
    }


def _first_word_of_verdict(answer: str) -> str:
    """`Yes, 3 is` is the slot of a comparison; what was asked for is `Yes`."""
    verdict, comma, _ = answer.partition(", ")
    return verdict if comma and verdict in ("Yes", "No") else answer
