"""The built-in example as preference pairs: each conversation with a right and a wrong answer.

In: a row of `conversations.generate` and a seed. Out: `prompt` (messages), `chosen` and `rejected`
(one message each). The wrong answer is the right sentence with another word in it: what the
question names is kept, and what it asks for is taken from another filler of the same form, drawn
with the seed and the conversation. Where a question names everything that its answer holds (the
first item of a list), the answer to another question of the form stands in.

Nothing here tokenises, and no model writes an answer.
"""

from __future__ import annotations

import random
from string import Formatter
from typing import Any

from llmforge.samples import conversations as made

_TRIES = 200


def pair(row: made.Row, seed: int) -> dict[str, Any]:
    """One conversation as a pair; the same for the same row and seed on every machine."""
    *prompt, right = row["messages"]
    wrong = {"role": "assistant", "content": _wrong_answer(row, seed)}
    return {"prompt": prompt, "chosen": right, "rejected": wrong}


def _wrong_answer(row: made.Row, seed: int) -> str:
    told = made.combination(row)
    form = next(
        form
        for form in made.forms()
        if form.skill == told.skill
        and told.phrasing[-1] in form.asks
        and dict(told.filler) in form.fillers
    )
    filler = dict(told.filler)
    asked = " ".join(turn["content"] for turn in row["messages"][:-1])
    # the whole talk seeds the draw, so that alike questions get different wrong answers
    rng = random.Random(f"{seed}|{asked}")  # noqa: S311 - repeatable, nothing secret
    named = _slots(*told.phrasing) if not form.introductions else frozenset()
    for _ in range(_TRIES):
        other = rng.choice(form.fillers)
        answer = form.answer.format_map({**other, **{name: filler[name] for name in named}})
        if answer == told.answer:
            answer = form.answer.format_map(other)
        if answer != told.answer:
            return answer
    raise AssertionError(f"every answer of {form.answer!r} is the same")


def _slots(*templates: str) -> frozenset[str]:
    """Names of the slots of some templates."""
    return frozenset(
        name for template in templates for _, name, _, _ in Formatter().parse(template) if name
    )
