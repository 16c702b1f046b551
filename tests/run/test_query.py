"""Filters on runs: read into comparisons, never evaluated."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmforge.run.query import QueryError, names, parse

RUN = {
    "status": "FINISHED",
    "eval_loss": 1.5,
    "steps": 50,
    "optimizer.lr": 1e-4,
    "lora.kind": "lora",
    "lora.rslora": True,
    "name": "my run",
}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("eval_loss<2", True),
        ("eval_loss < 1.5", False),
        ("eval_loss<=1.5", True),
        ("optimizer.lr>=1e-4", True),
        ("optimizer.lr=0.0001", True),
        ("steps!=50", False),
        ("status=finished", True),
        ("status==Failed", False),
        ("name='my run'", True),
        ('name~"RUN"', True),
        ("lora.rslora=true", True),
        ("eval_loss<2 and status=failed", False),
        ("eval_loss<2 or status=failed", True),
        ("status=failed or eval_loss<2 and steps=50", True),
        ("(status=failed or eval_loss<2) and steps=49", False),
        ("not status=failed", True),
        ("not not steps=50", True),
        ("exact_match=null", True),
        ("eval_loss=null", False),
        ("eval_loss!=null", True),
        # what a run does not have is neither this nor that
        ("exact_match>0", False),
        ("exact_match<=0", False),
        ("exact_match!=0", False),
    ],
)
def test_comparisons(text, holds):
    assert parse(text).holds(RUN.get) is holds


def test_names_that_are_asked_for():
    assert names(parse("a=1 and (b.c<2 or not a=3)")) == ["a", "b.c"]


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("", "a name of a setting or figure belongs here", 0),
        ("eval_loss", "needs one of", 9),
        ("eval_loss<", "a value belongs behind `<`", 10),
        ("eval_loss<2 steps>1", "`steps` is too much", 12),
        ("(eval_loss<2", "`)` is missing", 12),
        ("eval_loss<2)", "`)` is too much", 11),
        ("and eval_loss<2", "not `and`", 0),
        ("eval_loss ! 2", "`!` has no meaning here", 10),
        ("name='open", "`'` has no meaning here", 5),
        ("(" * 200 + "a=1", "too deeply nested", 51),
    ],
)
def test_what_is_no_filter_says_where(text, message, place):
    with pytest.raises(QueryError) as caught:
        parse(text)

    assert message in str(caught.value)
    assert caught.value.place == place


def test_code_is_a_text():
    assert not parse("name=__import__").holds(RUN.get)
    with pytest.raises(QueryError):
        parse("name=__import__('os').system('true')")


def holds_or_place(text: str) -> bool | int:
    try:
        return parse(text).holds(RUN.get)
    except QueryError as error:
        return error.place


@given(st.text(max_size=60))
def test_any_text_is_a_filter_or_refused(text):
    found = holds_or_place(text)

    assert found in (True, False) or 0 <= found <= len(text)
