"""LF230 to LF235 beyond their gallery pages: who is refused, with which hint, and who is not."""

from __future__ import annotations

import pytest

from llmforge import registry
from llmforge.compiler.context import Context
from llmforge.compiler.facts import arguments as facts
from llmforge.compiler.facts.arguments import Argument
from llmforge.compiler.rules.arguments import (
    argument_cannot_work,
    argument_closed,
    argument_of_another_type,
    argument_owned,
    argument_unknown,
)
from llmforge.compiler.rules.recipe import rate_from_scratch
from llmforge.schema import SCALARS, SECTIONS, SINGLE
from llmforge.schema.training_arguments import ARGUMENTS, FORMER, Open

RULES = (
    argument_unknown, argument_of_another_type, argument_owned, argument_closed,
    argument_cannot_work, rate_from_scratch,
)  # fmt: skip
TINY = ("model=folder", "model.path=tiny")


def findings(context: Context) -> list[tuple[str, str | None]]:
    return [(d.code, d.hint) for check in RULES for d in check(context)]


def extra(**given: object) -> dict[str, object]:
    return {"trainer.extra": given}


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"ddp_timeout": 7200, "ddp_bucket_cap_mb": 50, "log_level": "info"},
        {"torch_empty_cache_steps": None},
        {"include_num_input_tokens_seen": True},
        {"include_num_input_tokens_seen": "all"},
        {"tf32": False},
    ],
    ids=str,
)
def test_what_is_open_and_of_its_type_is_accepted(given, solved):
    assert findings(solved(extra(**given))) == []


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"ddp_timeuot": 5}, ("LF230", "trainer.extra.ddp_timeout=5")),
        ({"learning_rats": 0.1}, ("LF230", "optimizer.lr=0.1")),
        ({"quite_another_thing": 5}, ("LF230", None)),
        ({"ddp_timeout": True}, ("LF231", "trainer.extra.ddp_timeout=1800")),
        ({"log_level": 3}, ("LF231", "trainer.extra.log_level=passive")),
        ({"ddp_bucket_cap_mb": "big"}, ("LF231", "trainer.extra.ddp_bucket_cap_mb=null")),
        ({"per_device_train_batch_size": 4}, ("LF232", "trainer.micro_batch=4")),
        ({"optim": "paged_adamw_8bit"}, ("LF232", "optimizer=adamw_8bit")),
        ({"optim": "galore_adamw"}, ("LF232", None)),
        ({"bf16": True}, ("LF232", "precision=bfloat16")),
        ({"warmup_steps": 0.03}, ("LF232", "schedule.warmup=3%")),
        ({"evaluation_strategy": "no"}, ("LF232", "evaluation.every=null")),
        ({"max_seq_length": 512}, ("LF232", "collator.max_length=512")),
        ({"packing": True}, ("LF232", "collator=packed")),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, ("LF232", "deepspeed=stage3")),
        ({"num_train_epochs": 2}, ("LF233", "trainer.epochs=2")),
        ({"report_to": "wandb"}, ("LF233", "tracking=none")),
        ({"report_to": ["mlflow"]}, ("LF233", "tracking=mlflow")),
        ({"save_safetensors": False}, ("LF233", None)),
        ({"hub_model_id": "acme/new"}, ("LF233", "hub=push hub.repository=acme/new")),
        ({"tf32": True}, ("LF234", "trainer.extra.tf32=false")),
    ],
    ids=str,
)
def test_the_rest_is_refused_with_what_to_say_instead(given, found, solved):
    assert findings(solved("hardware=cpu", extra(**given))) == [found]


def test_a_secret_is_not_repeated(solved):
    [found] = argument_closed(solved(extra(hub_token="hf_abcdef")))

    assert "hf_abcdef" not in " ".join([found.message, *found.notes, str(found.hint)])


def test_a_newer_argument_than_the_table_is_let_through(solved, monkeypatch):
    """By the installed class alone; it counts as changing the weights."""
    known = {"brand_new": Argument("brand_new", "int", "1", "")}
    monkeypatch.setattr("llmforge.compiler.derive.arguments.installed_arguments", lambda _: known)

    assert findings(solved(extra(brand_new=3))) == []
    assert findings(solved(extra(brand_new="x"))) == [("LF231", "trainer.extra.brand_new=1")]
    assert findings(solved(extra(ddp_timeout=3))) == [("LF230", None)]  # another version's


def test_without_transformers_the_table_knows_the_names(solved, monkeypatch):
    monkeypatch.setattr(facts, "source_file", lambda: None)

    assert findings(solved(extra(ddp_timeout="unchecked"))) == []
    assert findings(solved(extra(ddp_timeot=3))) == [("LF230", "trainer.extra.ddp_timeout=3")]
    assert findings(solved(extra(learning_rate=3e-4))) == [("LF232", "optimizer.lr=0.0003")]


def values_of(name: str) -> tuple[object, ...]:
    numbers = (4, 0.5, True, False, None)
    texts = ("no", "epoch", "end", "linear", "cosine", "adamw_torch", "sequential", "x/y")
    return (*numbers, *texts, ["mlflow"], {"zero_optimization": {"stage": 1}})


@pytest.mark.parametrize("name", [*ARGUMENTS, *FORMER])
def test_every_hint_names_keys_and_options_that_exist(name):
    entry = {**FORMER, **ARGUMENTS}[name]
    if isinstance(entry, Open):
        return
    for value in values_of(name):
        for key, _ in entry.say(value):
            section, _, field = key.partition(".")
            assert section in (*SCALARS, *SECTIONS)
            if field:
                assert field.partition(".")[0] in fields_of(section), key


def fields_of(section: str) -> set[str]:
    if section in SINGLE:
        return set(SINGLE[section].model_fields)
    return {f for component in registry.kinds(section).values()
            for f in component.spec.model_fields}  # fmt: skip


@pytest.mark.parametrize(
    ("overrides", "refused"),
    [
        (("optimizer.lr=3e-3",), False),  # from scratch
        ((*TINY, "optimizer.lr=2e-4"), False),  # ten times: Void-Trainer's highest
        ((*TINY, "optimizer.lr=3e-4"), True),
        ((*TINY, "lora=small", "optimizer.lr=2e-3"), False),
        ((*TINY, "lora=small", "optimizer.lr=3e-3"), True),
        ((*TINY, "optimizer=sgd", "optimizer.lr=1e-2"), False),
        ((*TINY, "optimizer=adafactor_relative"), False),
        ((*TINY, "optimizer=muon"), False),
    ],
    ids=str,
)
def test_a_rate_from_scratch_meets_pretrained_weights(overrides, refused, solved):
    assert findings(solved(*overrides)) == ([("LF235", "optimizer.lr=auto")] if refused else [])
