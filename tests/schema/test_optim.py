"""Sections `optimizer` and `schedule`: what is legal, and that every field says what it does."""

from __future__ import annotations

import pytest

from llmforge.compiler.parse import parse
from llmforge.compose import compose
from llmforge.registry import kinds
from llmforge.schema.docs import docs_of


@pytest.mark.parametrize("section", ["optimizer", "schedule"])
def test_every_field_is_explained(section):
    for component in kinds(section).values():
        missing = set(component.spec.model_fields) - set(docs_of(component.spec)) - {"kind"}
        assert missing == set(), component.kind


@pytest.mark.parametrize(
    ("option", "wrong"),
    [
        ("optimizer=adamw", {"clip_value": 0.0}),
        ("optimizer=adamw", {"lora_plus_ratio": 0.5}),
        ("optimizer=adamw", {"embedding_lr": 0.0}),
        ("optimizer=adamw", {"layer_decay": 1.5}),
        ("optimizer=adamw", {"decay_norms": "yes"}),
        ("optimizer=lion", {"bits": 16}),
        ("optimizer=muon", {"adjust": "rms"}),
        ("optimizer=muon", {"orthogonal_steps": 0}),
        ("schedule=multistep", {"milestones": []}),
        ("schedule=multistep", {"milestones": [0]}),
        ("schedule=multistep", {"unit": "samples"}),
        ("schedule=multistep", {"gamma": 0.0}),
        ("schedule=wsd", {"decay": "110%"}),
        ("schedule=wsd", {"shape": "sqrt"}),
        ("schedule=cosine_restarts", {"cycles": 0}),
        ("schedule=polynomial", {"floor": 1.0}),
    ],
    ids=str,
)
def test_what_is_refused(option, wrong):
    values = compose([option]).values
    section = option.partition("=")[0]
    ((name, value),) = wrong.items()
    values[section][name] = value

    spec, problems = parse(values)

    assert spec is None
    assert [problem.key for problem in problems] == [f"{section}.{name}"]


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [("optimizer", "layer_decay", 0.9), ("optimizer", "clip_value", 0.5)],
)
def test_what_is_taken(section, key, value):
    values = compose(["optimizer=adamw"]).values
    values[section][key] = value

    assert parse(values)[1] == []
