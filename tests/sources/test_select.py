"""Conditions on rows: what the grammar takes, what each operator means, how columns are found."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.sources.select import OPERATORS, condition, has, lookup

ROW: dict[str, Any] = {
    "lang": "en",
    "score": 0.5,
    "votes": "12",
    "note": None,
    "good": True,
    "topics": ["maths", "physics"],
    "meta": {"lang": "de", "empty": None},
    "answers": ["first", {"text": "second"}],
    "a.b": "dotted",
}


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ('lang == "en"', True), ('lang=="en"', True), ('  lang  ==  "en"  ', True),
        ('lang == "de"', False), ('lang != "de"', True), ('lang != "en"', False),
        ("score >= 0.5", True), ("score > 0.5", False), ("score<1", True), ("score <= 0.4", False),
        ('lang in ["de", "en"]', True), ('lang not in ["de", "en"]', False), ("lang in []", False),
        ("votes in [12]", True),
        ('lang contains "e"', True), ('lang contains "x"', False), ('lang not  contains "x"', True),
        ('topics contains "maths"', True), ('topics contains "mat"', False),
        ('score contains "5"', False),
        ("note is null", True), ("note is  not   null", False), ("lang is not null", True),
        ("nothing is null", True), ('nothing != "x"', True), ('nothing == "x"', False),
        ("good == true", True), ("good == false", False), ("good == 1", False),
        # CSV has only text: a number's text is a number where a number is asked for
        ("votes == 12", True), ("votes > 9", True), ('votes == "12"', True), ('votes > "9"', False),
        # what cannot be ordered meets nothing
        ("lang > 3", False), ("lang <= 3", False), ('score < "z"', False), ("note < 3", False),
        ("good > 0", False),
        ('meta.lang == "de"', True), ('answers.0 == "first"', True),
        ('answers.1.text == "second"', True), ("answers.7 is null", True),
        ('a.b == "dotted"', True), ('topics == ["maths", "physics"]', True),
    ],
)  # fmt: skip
def test_what_conditions_mean(text, met):
    assert condition(text).meets(ROW) is met


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected COLUMN OPERATOR VALUE"),
        ("lang", "expected COLUMN OPERATOR VALUE"),
        ('lang = "en"', "expected COLUMN OPERATOR VALUE"),
        ('lang like "en"', "with one of ==, !=, <, <=, >, >=, in"),
        ("lang == en", '`en` is not a JSON value; text is written "en"'),
        ("lang == 'en'", 'text is written "en"'),
        ("lang ==", "is not a JSON value"),
        ('lang in "en"', '`in` needs a list: ["en"]'),
        ("lang not in 3", "`not in` needs a list: [3]"),
        ("lang is null 3", "nothing may follow `is null`"),
        ("__import__('os').system('x') == 1 and", "is not a JSON value"),
    ],
)
def test_what_is_no_condition_says_how_it_would_be(text, told):
    with pytest.raises(ValueError, match=re.escape(told)):
        condition(text)


VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.text("ab1.", max_size=3)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(found=VALUES | st.lists(VALUES, max_size=3), value=VALUES)
def test_a_negation_is_met_exactly_where_its_opposite_is_not(found, value):
    row = {"x": found}
    opposites = [("==", "!="), ("in", "not in"), ("contains", "not contains")]

    for plain, negated in opposites:
        shown = json.dumps([value] if plain == "in" else value)
        met = [condition(f"x {name} {shown}").meets(row) for name in (plain, negated)]
        assert sorted(met) == [False, True]


def test_every_operator_is_in_the_grammar():
    for name in OPERATORS:
        value = {"in": " [1]", "not in": " [1]", "is null": "", "is not null": ""}.get(name, " 1")
        assert condition(f"x {name}{value}").operator == name


@pytest.mark.parametrize(
    ("column", "there"),
    [("lang", True), ("note", True), ("nothing", False), ("meta.empty", True),
     ("meta.nothing", False), ("answers.0", True), ("answers.9", False), ("lang.x", False)],
)  # fmt: skip
def test_a_column_may_be_there_as_null(column, there):
    assert has(ROW, column) is there
    if not there:
        assert lookup(ROW, column) is None
