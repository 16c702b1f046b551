"""What differs between two plans, what it means, what would run again."""

from __future__ import annotations

import dataclasses

import pytest

from llmforge.diff import diff, diff_text, effect_of
from llmforge.schema import Effect


@pytest.fixture
def plans(compiled):
    """`plans("lora=small", "lora=medium")`: two compiled plans and their difference."""

    def compare(before: str, after: str):
        return diff(*(compiled("hardware=cpu", *text.split()) for text in (before, after)))

    return compare


def changes(found):
    return [(c.effect.value, c.key, c.before, c.after) for c in found.changes]


def test_the_same_plan(plans):
    found = plans("seed=1", "seed=1")

    assert (found.changes, found.stages) == ((), ())
    assert diff_text(found) == "no difference: the same run"


@pytest.mark.parametrize(
    ("before", "after", "expected", "stages"),
    [
        (
            "lora=small",
            "lora=medium",
            [("numerics", "lora.r", 8, 32), ("numerics", "lora.alpha", 16, 64)],
            ("train", "evaluate"),
        ),
        ("data.rows=500", "data.rows=600", [("data", "data.rows", 500, 600)],
         ("prepare", "train", "evaluate")),
        (
            "evaluation.samples=1",
            "evaluation.samples=2",
            [("evaluation", "evaluation.samples", 1, 2)],
            ("evaluate",),
        ),
        (
            "trainer.workers=0",
            "trainer.workers=2",
            [("speed", "trainer.workers", 0, 2)],
            (),
        ),
        ("name=a", "name=b", [("bookkeeping", "name", "a", "b")], ()),
    ],
)  # fmt: skip
def test_class_of_a_change_and_what_runs_again(before, after, expected, stages, plans):
    found = plans(before, after)

    # what follows from the change (steps, intervals) may differ as well
    assert [c for c in changes(found) if c in expected] == expected
    assert found.stages == stages


def test_weightiest_changes_come_first(plans):
    found = plans("name=a seed=1 data.rows=600", "name=b seed=2 data.rows=500 trainer.workers=2")

    order = [c.effect for c in found.changes]
    assert order == sorted(order, key=list(Effect).index)
    assert (order[0], order[-1]) == (Effect.DATA, Effect.BOOKKEEPING)


def test_keys_that_came_and_went(plans):
    found = plans("schedule=linear", "schedule=cosine")

    assert changes(found) == [
        ("numerics", "schedule.kind", "linear", "cosine"),
        ("numerics", "schedule.floor", "(absent)", 0.1),
    ]
    assert diff_text(plans("schedule=cosine", "schedule=linear")).splitlines() == [
        "numerics:",
        "  ~ schedule.kind   cosine -> linear   conf/schedule/linear.yaml:3",
        "  - schedule.floor  0.1 -> (absent)",
        "",
        "stages that would run again: train, evaluate",
    ]


def test_text(plans):
    assert diff_text(plans("lora=small name=a", "lora=medium name=b")).splitlines() == [
        "numerics:",
        "  ~ lora.r      8 -> 32   conf/lora/medium.yaml:6",
        "  ~ lora.alpha  16 -> 64   conf/lora/medium.yaml:7",
        "bookkeeping:",
        "  ~ name        a -> b   command line",
        "",
        "stages that would run again: train, evaluate",
    ]


def test_nothing_would_run_again(plans):
    assert diff_text(plans("name=a", "name=b")).endswith(
        "stages that would run again: none; both are the same run"
    )


def test_content_that_changed_behind_an_unchanged_path(compiled):
    before = compiled("experiment=gsm8k", "data.train=qa.jsonl")
    digest = before.facts["identity"]["data"]["data"]["train"]
    other = {"data": {"train": ["x"], "evaluation": {}}}
    after = dataclasses.replace(
        before,
        facts={**before.facts, "identity": {**before.facts["identity"], "data": other}},
        stages=dict.fromkeys(before.stages, "x"),
    )

    found = diff(before, after)

    assert ("data", "content.data.data.train", digest, ["x"]) in changes(found)
    assert found.stages == ("prepare", "train", "evaluate")


def test_json_form(plans):
    found = plans("seed=1", "seed=2").to_dict()

    assert found == {
        "changes": [
            {
                "key": "seed",
                "before": 1,
                "after": 2,
                "effect": "numerics",
                "origin": {"kind": "override", "where": "seed=2", "value": 2},
            }
        ],
        "stages_that_would_run_again": ["train", "evaluate"],
    }


@pytest.mark.parametrize(
    ("key", "effect"),
    [
        ("seed", Effect.NUMERICS),
        ("name", Effect.BOOKKEEPING),
        ("trainer.epochs", Effect.NUMERICS),
        ("trainer.log_every", Effect.BOOKKEEPING),
        ("data.fields.prompt", Effect.DATA),
        ("data.train", Effect.BOOKKEEPING),
        ("generation.top_p", Effect.EVALUATION),
    ],
)
def test_effect_of_a_key(key, effect, compiled):
    settings = compiled("experiment=gsm8k", "data.train=qa.jsonl").settings

    assert effect_of(key, settings) is effect
