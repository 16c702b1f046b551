"""Rows of every form that preference data have, and what is wrong with others."""

from __future__ import annotations

from typing import Any

import pytest

from llmforge.compose import compose
from llmforge.schema.typed import typed
from llmforge.sources.pairs import pair_of

USER, YES, NO = (
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes"},
    {"role": "assistant", "content": "no"},
)


@pytest.fixture(scope="module")
def source() -> Any:
    return typed(compose(["data=jsonl", "data.train=x.jsonl"]).values).data


@pytest.mark.parametrize(
    ("row", "prompt", "chosen", "rejected"),
    [
        ({"prompt": "2+2?", "chosen": "4", "rejected": "5"}, "2+2?", "4", "5"),
        (
            {"chosen": "Q: hi\nA: I am", "rejected": "Q: hi\nA: It is"},
            "Q: hi\nA:",
            " I am",
            " It is",
        ),
        ({"prompt": "hi", "chosen": [USER, YES], "rejected": [USER, NO]}, [USER], YES, NO),
        ({"prompt": "hi", "chosen": [YES], "rejected": NO}, [USER], YES, NO),
        ({"prompt": [USER], "chosen": "yes", "rejected": "no"}, [USER], YES, NO),
        ({"prompt": [USER], "chosen": [YES], "rejected": [NO]}, [USER], YES, NO),
        ({"chosen": [USER, YES], "rejected": [USER, NO]}, [USER], YES, NO),
        (
            {"prompt": "Give a list.", "chosen": "[1, 2]", "rejected": "[3]"},
            "Give a list.",
            "[1, 2]",
            "[3]",
        ),
    ],
)
def test_forms(source: Any, row: Any, prompt: Any, chosen: Any, rejected: Any):
    found, fault = pair_of(row, source)
    assert fault is None
    assert found == {"prompt": prompt, "chosen": chosen, "rejected": rejected}


@pytest.mark.parametrize(
    ("row", "code", "words"),
    [
        ({"prompt": "x", "chosen": "a"}, "LF505", "has no `rejected`"),
        ({"prompt": "x", "chosen": "a", "rejected": " "}, "LF505", "is empty"),
        ({"prompt": "x", "chosen": "a", "rejected": None}, "LF505", "is null"),
        ({"prompt": "x", "chosen": "a", "rejected": [NO]}, "LF505", "is a list"),
        ({"prompt": 3, "chosen": "a", "rejected": "b"}, "LF505", "is a number"),
        ({"prompt": "x", "chosen": "a", "rejected": "a"}, "LF530", "neither is preferred"),
        ({"chosen": "yes", "rejected": "no"}, "LF531", "same prompt"),
        ({"chosen": "Q: a", "rejected": "Q: a b"}, "LF531", "beginning of the other"),
        ({"chosen": [USER, YES], "rejected": [YES, NO]}, "LF505", "begins with the assistant"),
        ({"chosen": [YES], "rejected": [NO]}, "LF505", "begins with the assistant"),
        ({"chosen": [USER, YES, USER], "rejected": [USER, NO]}, "LF532", "ends with the user"),
    ],
)
def test_faults(source: Any, row: Any, code: str, words: str):
    found, fault = pair_of(row, source)
    assert found is None
    assert fault is not None
    assert fault.code == code
    assert words in fault.what


def test_columns_and_keys_of_other_names():
    asked = [
        "data=jsonl",
        "data.train=x.jsonl",
        "data.fields.chosen=good",
        "data.fields.rejected=bad",
        "data.fields.role=from",
        "data.fields.content=value",
        "++data.roles={human: user, gpt: assistant}",
    ]
    source = typed(compose(asked).values).data
    chats = [
        [{"from": "human", "value": "hi"}, {"from": "gpt", "value": said}] for said in ("yes", "no")
    ]
    found, fault = pair_of({"good": chats[0], "bad": chats[1]}, source)
    assert fault is None
    assert found == {"prompt": [USER], "chosen": YES, "rejected": NO}
    mixed, fault = pair_of({"prompt": "hi", "good": chats[0][1:], "bad": chats[1][1:]}, source)
    assert fault is None
    assert mixed == found
