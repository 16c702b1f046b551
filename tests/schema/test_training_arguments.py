"""The table of `TrainingArguments` knows every argument of the installed class, and no other."""

from __future__ import annotations

import dataclasses

import pytest
from transformers import TrainingArguments

from llmforge.schema import Effect
from llmforge.schema.docs import field_doc
from llmforge.schema.train import LmTrainer, TrainerSpec
from llmforge.schema.training_arguments import (
    ARGUMENTS,
    FORMER,
    Closed,
    Open,
    Owned,
    effect_of_extra,
)

INSTALLED = {field.name for field in dataclasses.fields(TrainingArguments)}


def test_every_installed_argument_is_somebodys():
    assert sorted(INSTALLED - set(ARGUMENTS)) == [], (
        "new arguments of transformers: say in schema/training_arguments.py whose they are"
    )


def test_the_table_has_nothing_that_is_gone():
    assert sorted(set(ARGUMENTS) - INSTALLED) == []


def test_a_former_name_is_not_a_present_one():
    assert not set(FORMER) & set(ARGUMENTS)


@pytest.mark.parametrize("name", [n for n, e in ARGUMENTS.items() if isinstance(e, Closed)])
def test_a_closed_argument_has_a_reason(name):
    entry = ARGUMENTS[name]
    assert isinstance(entry, Closed)
    assert 15 < len(entry.reason) < 100


def test_all_three_answers_occur():
    """Of 114 arguments: decided by a key, open, closed with a reason."""
    counts = {kind: sum(isinstance(e, kind) for e in ARGUMENTS.values()) for kind in
              (Owned, Open, Closed)}  # fmt: skip

    assert sum(counts.values()) == len(INSTALLED)
    assert min(counts.values()) > 10


@pytest.mark.parametrize(
    ("name", "effect"),
    [
        ("ddp_timeout", Effect.BOOKKEEPING),
        ("ddp_bucket_cap_mb", Effect.SPEED),
        ("tf32", Effect.NUMERICS),
        ("nobody_has_heard_of_it", Effect.NUMERICS),
    ],
)
def test_each_extra_has_its_own_effect(name, effect):
    assert effect_of_extra(name) is effect
    assert LmTrainer.effect_within("extra", name) is effect
    assert TrainerSpec.effect_of("extra") is Effect.NUMERICS


def test_the_open_mapping_is_documented():
    assert "TrainingArguments" in field_doc(LmTrainer, ["extra"])
