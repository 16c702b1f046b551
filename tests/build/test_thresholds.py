"""Limits that stop a run: of each one a plan that crosses it and one that does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmforge.build.errors import DataRefused
from llmforge.stages.prepare import prepare

GOOD = ("What comes after one?", "two")
LONG_QUESTION = ("why " * 100, "because")
LONG_ANSWER = ("why?", "because " * 100)


def chats(*pairs: tuple[str, str]) -> list[dict[str, Any]]:
    return [
        {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}
        for asked, said in pairs
    ]


@pytest.fixture
def held(tmp_path: Path):
    """`held((question, answer))`: settings of an evaluation file with these chats."""

    def write(*pairs: tuple[str, str]) -> dict[str, Any]:
        path = tmp_path / "held.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in chats(*pairs)))
        return {"data.evaluation": str(path)}

    return write


@pytest.fixture
def refused(make_plan):
    """`refused(rows, {...})`: what is said, or None; evaluation rows are not held out."""

    def run(rows: list[dict[str, Any]], changes: dict[str, Any]) -> str | None:
        try:
            prepare(make_plan({"data.eval_fraction": 0.0, **changes}, rows=rows))
        except DataRefused as error:
            return str(error)
        return None

    return run


@pytest.mark.parametrize(("limit", "passes"), [(0, False), (1, True), ("10%", False), ("50%", True),
                                               (None, True)])  # fmt: skip
def test_rows_with_nothing_to_learn(limit, passes, refused):
    found = refused(chats(GOOD, GOOD, LONG_QUESTION), {"data.max_untrained_rows": limit})

    if passes:
        assert found is None
    else:
        assert found.startswith("1 training rows have no token to learn")
        assert found.endswith("the receipt lists each; hint: data.max_untrained_rows=1")


@pytest.mark.parametrize(
    ("limit", "passes"),
    [(0, False), (10, False), ("5%", False), ("95%", True), (1000, True), (None, True)],
)
def test_tokens_that_are_cut(limit, passes, refused):
    found = refused(chats(GOOD, LONG_ANSWER), {"data.max_cut_tokens": limit})

    if passes:
        assert found is None
    else:
        assert "tokens (" in found
        assert f"are cut; data.max_cut_tokens is {limit}; hint: collator.truncation=split" in found


@pytest.mark.parametrize(
    ("changes", "passes"),
    [
        ({}, False),
        ({"data.require_end_token": False}, True),
        ({"collator.truncation": "left"}, True),
        ({"collator.max_length": 512, "model.context": 512}, True),
        ({"collator.train_end_of_turn": False}, True),  # asked for
    ],
    ids=str,
)
def test_no_end_token_anywhere(changes, passes, refused):
    changes = {"data.require_end_token": True, **changes}

    found = refused(chats(LONG_ANSWER, LONG_ANSWER), changes)

    assert (found is None) is passes
    assert found is None or found.startswith("no end token carries loss anywhere")


def test_one_end_token_is_enough(refused):
    assert refused(chats(LONG_ANSWER, GOOD), {"data.require_end_token": True}) is None


@pytest.mark.parametrize(("limit", "passes"), [(0, False), ("49%", False), ("50%", True),
                                               (1, True), (None, True)])  # fmt: skip
def test_evaluation_rows_that_stand_in_training(limit, passes, refused, held):
    evaluation = held(GOOD, ("What comes after two?", "three"))

    found = refused(chats(GOOD, ("a", "b")), {**evaluation, "data.max_overlap": limit})

    if passes:
        assert found is None
    else:
        assert found.startswith("1 of 2 evaluation rows stand in the training set as well")
        assert "hint: take them out, or data.max_overlap=null" in found


TEMPLATE = """{%- for message in messages -%}
{%- if message.content == "odd" %}{{ raise_exception("no odd ones") }}{% endif -%}
<{{ message.role }}>{{ message.content }}<end>
{%- endfor -%}{%- if add_generation_prompt %}<assistant>{% endif -%}"""


@pytest.mark.parametrize(("limit", "passes"), [(0, False), (1, True), ("40%", True),
                                               ("30%", False)])  # fmt: skip
def test_rows_that_the_chat_template_refuses(limit, passes, refused, tmp_path):
    template = tmp_path / "odd.jinja"
    template.write_text(TEMPLATE)
    changes = {"tokenizer.chat_template": str(template), "data.max_bad_rows": limit}

    found = refused(chats(GOOD, ("odd", "b"), ("c", "d")), changes)

    if passes:
        assert found is None
    else:
        assert found.startswith("1 training rows are refused by the chat template")
        assert found.endswith("hint: data.max_bad_rows=1")


def test_an_evaluation_set_of_which_nothing_is_left(refused, held):
    changes = {**held(LONG_QUESTION), "collator.truncation": "drop"}

    found = refused(chats(GOOD), changes)

    assert found.startswith("no row of evaluation set `eval` is left of 1")


def test_everything_over_its_limit_is_told_at_once_and_again(make_plan):
    changes = {"data.eval_fraction": 0.0, "data.max_untrained_rows": 0, "data.max_cut_tokens": 0}
    plan = make_plan(changes, rows=chats(GOOD, LONG_QUESTION, LONG_ANSWER))

    for _ in range(2):  # found whole the second time, and no less refused
        with pytest.raises(DataRefused) as error:
            prepare(plan)
        assert "no token to learn" in str(error.value)
        assert "are cut" in str(error.value)
