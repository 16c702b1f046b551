"""What a row must hold, and hints that mend: each is pasted, and the row is then accepted."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.compiler.facts.data import look_at
from llmforge.compiler.parse import parse
from llmforge.compose import compose
from llmforge.diagnostics import Diagnostic
from llmforge.sources.shapes import COLUMNS, detect, values_of

USER = {"role": "user", "content": "a"}
ANSWER = {"role": "assistant", "content": "b"}
SYSTEM = {"role": "system", "content": "c"}
TOOL = {"role": "tool", "content": "d"}
CALL = {"role": "assistant", "content": None, "tool_calls": [{"name": "f"}]}

Values = Callable[..., tuple[dict[str, Any] | None, Any]]


@pytest.fixture
def values(source) -> Values:
    """`values({"text": "a"}, "text")`: the row's values, and what is wrong with them."""
    return lambda row, shape, **changes: values_of(row, shape, source(**changes))


def findings(row: dict[str, Any], *overrides: str) -> list[Diagnostic]:
    """What `llmforge check` says of a file with this row."""
    Path("rows.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    draft = compose(["data=jsonl", "data.train=rows.jsonl", *overrides])
    assert draft.diagnostics == ()
    spec, problems = parse(draft.values)
    assert spec is not None, problems
    return look_at(spec.data, Path(".llmforge"))[1]


# -- columns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("row", "shape", "expected"),
    [
        ({"text": "a", "id": 1}, "text", {"text": "a"}),
        ({"prompt": "", "completion": "b"}, "prompt_completion", {"prompt": "", "completion": "b"}),
        ({"text_parts": ["a", "b"]}, "text_parts", {"text_parts": ["a", "b"]}),
        ({"text_parts": '["a", "b"]'}, "text_parts", {"text_parts": ["a", "b"]}),  # out of a CSV
        (
            {"instruction": "a", "output": "b"}, "instruction",
            {"instruction": "a", "output": "b", "input": ""},
        ),
        (
            {"instruction": "a", "input": None, "output": "b"}, "instruction",
            {"instruction": "a", "output": "b", "input": ""},
        ),
        ({"messages": [USER, ANSWER]}, "messages", {"messages": [USER, ANSWER]}),
        (
            {"messages": json.dumps([USER, ANSWER]), "tools": [{"name": "f"}]}, "messages",
            {"messages": [USER, ANSWER], "tools": [{"name": "f"}]},
        ),
    ],
)  # fmt: skip
def test_what_each_shape_takes(row, shape, expected, values, source):
    assert detect(row, source().fields) == shape
    assert values(row, shape) == (expected, None)


def test_columns_inside_of_columns(values):
    row = {"qa": {"q": "2+2?"}, "answers": ["4"]}

    found, _ = values(
        row, "prompt_completion", fields={"prompt": "qa.q", "completion": "answers.0"}
    )

    assert found == {"prompt": "2+2?", "completion": "4"}


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (6, "is a number, not text"),
        (True, "is true or false, not text"),
        (None, "is null, not text"),
        ([], "is an empty list, not text"),
        (["6"], "is a list, not text"),
        ({}, "is a mapping, not text"),
        ("", "is empty, so nothing to learn"),
        (" \n", "is empty, so nothing to learn"),
    ],
)
def test_what_is_learnt_is_text_and_not_empty(value, fault, values):
    for shape, column in (("prompt_completion", "completion"), ("instruction", "output")):
        row = {"prompt": "a", "instruction": "a", column: value}
        found, problem = values(row, shape)
        assert (found, problem.code, problem.what) == (None, "LF505", f"`{column}` {fault}")


@pytest.mark.parametrize(
    ("parts", "fault"),
    [
        ("a", "is text, not a list of texts"),
        ([], "is an empty list, not a list of texts"),
        (["a", 1], "part 1 is a number, not text"),
        (["a", " "], "ends with an empty part, so nothing to learn"),
    ],
)
def test_text_parts(parts, fault, values):
    what = values({"text_parts": parts}, "text_parts")[1].what

    assert what.startswith("`text_parts`")
    assert what.endswith(fault)


@pytest.mark.parametrize(
    ("row", "hint", "shape"),
    [
        ({"question": "a", "answer": "b"}, "fields.prompt=question fields.completion=answer",
         "prompt_completion"),
        ({"instruction": "a", "response": "b"},
         "fields.prompt=instruction fields.completion=response", "prompt_completion"),
        ({"prompt": "a", "response": "b"}, "fields.completion=response", "prompt_completion"),
        ({"promt": "a", "completions": "b"}, "fields.prompt=promt fields.completion=completions",
         "prompt_completion"),
        ({"content": "a"}, "fields.text=content", "text"),
        ({"Text": "a"}, "fields.text=Text", "text"),
        ({"chat": [USER, ANSWER]}, "fields.messages=chat", "messages"),
        ({"parts": ["a", "b"]}, "fields.text_parts=parts", "text_parts"),
    ],
)  # fmt: skip
def test_columns_of_other_names_are_guessed_and_the_guess_mends(row, hint, shape, here):
    (found,) = findings(row)
    pasted = [f"data.{part}" for part in hint.split()]

    assert (found.code, found.hint) == ("LF506", " ".join(pasted))
    assert findings(row, *pasted) == []


def test_columns_that_remind_of_nothing_are_listed(here):
    (found,) = findings({"a": "x", "b": "y"})

    assert found.code == "LF506"
    assert "<column>" in found.hint, "nothing is guessed"
    assert "columns there: `a`, `b`" in found.notes
    assert all(f"`{names[0]}`" in found.notes[-1] for names in COLUMNS.values())


def test_a_declared_shape_asks_for_its_columns_and_the_hint_mends(here):
    row = {"text": "a", "question": "b", "answer": "c"}
    overrides = ["data.shape=prompt_completion"]

    for _ in range(2):
        (found,) = findings(row, *overrides)
        assert found.code == "LF505"
        overrides += shlex.split(found.hint)

    assert findings(row, *overrides) == []


# -- chats -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ("Hi", "is text, not a list of messages"),
        ([], "is an empty list, not a list of messages"),
        (["Hi"], "message 0 is text, not a message"),
        ([{"role": "user"}], "message 0 has no `content`; it holds `role`"),
        ([{}], "message 0 has no `role`; it holds nothing"),
        ([{"role": "user", "content": 3}], "message 0 has a number as content, not text"),
        ([USER, {"role": "assistant", "content": None}], "message 1 has null as content, not text"),
        ([USER, {"role": "assistant", "content": " "}], "message 1 is an empty assistant turn"),
        ([USER, {"role": "user", "content": None, "tool_calls": [1]}],
         "message 1 has null as content, not text"),
        ([USER], "has no assistant turn, so nothing to learn"),
        ([{"role": "judge", "content": "a"}],
         'message 0 has role "judge"; known are system, user, assistant, tool'),
        ([{"role": ["user"], "content": "a"}],
         'message 0 has role ["user"]; known are system, user, assistant, tool'),
    ],
)  # fmt: skip
def test_conversations_that_teach_nothing(messages, fault, values):
    what = values({"messages": messages}, "messages")[1].what

    assert what.startswith("`messages`")
    assert what.endswith(fault)


@pytest.mark.parametrize(
    ("messages", "fault"),
    [
        ([ANSWER, USER, ANSWER], "begins with the assistant, before anybody asked"),
        ([SYSTEM, ANSWER], "begins with the assistant, before anybody asked"),
        ([USER, USER, ANSWER], "messages 0 and 1 are both the user's"),
        ([USER, ANSWER, ANSWER], "messages 1 and 2 are both the assistant's"),
        ([USER, SYSTEM, ANSWER], "message 1 is a system message that is not the first"),
        ([SYSTEM, SYSTEM, USER, ANSWER], "message 1 is a system message that is not the first"),
    ],
)
def test_turns_in_an_order_that_no_template_is_made_for(messages, fault, here):
    row = {"messages": messages}

    (found,) = findings(row)

    assert found.code == "LF505"
    assert found.message.startswith("rows.jsonl:1: `messages`")
    assert found.message.endswith(fault)
    assert (found.key, found.hint) == ("data.strict_turns", "data.strict_turns=false")
    assert findings(row, found.hint) == []


@pytest.mark.parametrize(
    "messages",
    [
        [USER, ANSWER],
        [SYSTEM, USER, ANSWER, USER, ANSWER],
        [USER, CALL, TOOL, TOOL, ANSWER],
        [USER, CALL, TOOL, CALL, TOOL, ANSWER, USER],
    ],
)
def test_turns_in_order(messages, values):
    found, problem = values({"messages": messages}, "messages")

    assert problem is None
    assert [message["role"] for message in found["messages"]] == [m["role"] for m in messages]
    assert all(isinstance(message["content"], str) for message in found["messages"])


def test_sharegpt_is_read_after_its_hints_are_pasted(here):
    row = {"conversations": [{"from": "human", "value": "a"}, {"from": "gpt", "value": "b"}]}
    overrides: list[str] = []

    for _ in range(2):
        (found,) = findings(row, *overrides)
        overrides += shlex.split(found.hint)

    assert findings(row, *overrides) == []
    assert overrides == [
        "data.fields.messages=conversations",
        "data.fields.role=from",
        "data.fields.content=value",
        "++data.roles={human: user, gpt: assistant}",
    ]


@pytest.mark.parametrize(("word", "role"), [("human", "user"), ("GPT", "assistant"),
                                            ("model", "assistant")])  # fmt: skip
def test_roles_of_other_names_are_guessed_and_the_guess_mends(word, role, here):
    other = [message for message in (USER, ANSWER) if message["role"] != role]
    row = {"messages": [{"role": word, "content": "x"}, *other]}

    (found,) = findings(row, "data.strict_turns=false")

    assert found.code == "LF505"
    assert found.hint == f"'++data.roles={{{word}: {role}}}'"
    assert findings(row, "data.strict_turns=false", *shlex.split(found.hint)) == []


@pytest.mark.parametrize(
    ("said", "learnt"),
    [(True, True), (1, True), ("true", True), (False, False), (0, False), (None, False),
     ("no", False), ([], False)],
)  # fmt: skip
def test_the_flag_of_a_message_becomes_true_or_false(said, learnt, values):
    row = {"messages": [USER, {**ANSWER, "weight": said}]}

    found, _ = values(row, "messages", fields={"flag": "weight"})

    assert found["messages"] == [USER, {**ANSWER, "train": learnt}]


def test_what_else_a_message_holds_is_kept_and_nulls_are_not(values):
    message = {**ANSWER, "name": "x", "reasoning": None}

    found, _ = values({"messages": [USER, message]}, "messages")

    assert found["messages"][1] == {**ANSWER, "name": "x"}


@pytest.mark.parametrize(
    ("row", "shape", "what"),
    [
        ({"messages": [USER, ANSWER], "tools": "f"}, "messages", "`tools` is text, not a list"),
        ({"instruction": "a", "input": 3, "output": "b"}, "instruction",
         "`input` is a number, not text"),
    ],
)  # fmt: skip
def test_odd_side_columns(row, shape, what, values):
    assert values(row, shape)[1].what == what
