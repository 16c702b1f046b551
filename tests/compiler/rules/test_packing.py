"""LF510 and LF517 beyond their gallery pages: who is refused, with which hint, and who is not."""

from __future__ import annotations

import dataclasses

import pytest

from llmforge.compiler.context import Context
from llmforge.compiler.rules.packing import packed_samples_see_each_other, undone_by_packing

PACKED = "collator=packed"


def findings(context: Context) -> list[tuple[str, str, str | None]]:
    """Code, severity and hint."""
    found = [*packed_samples_see_each_other(context), *undone_by_packing(context)]
    return [(d.code, d.severity.value, d.hint) for d in found]


def with_family(context: Context, family: str | None) -> Context:
    config = {} if family is None else {"model_type": family}
    facts = dataclasses.replace(context.facts, model_config=config)
    return Context(context.spec, facts)


@pytest.mark.parametrize(
    ("family", "attention"),
    [
        ("llama", "sdpa"),
        ("llama", "eager"),
        ("llama", "flash_attention_2"),
        ("gpt_neo", "eager"),
        ("opt", "flash_attention_2"),
        ("qwen3_moe", "sdpa"),
    ],
)
def test_kept_apart(family, attention, unsolved):
    context = unsolved(PACKED, {"model.attention": attention})
    assert findings(with_family(context, family)) == []


@pytest.mark.parametrize(
    ("family", "attention", "hint"),
    [
        ("opt", "sdpa", "collator.packing=none"),
        ("opt", "eager", "collator.packing=none"),
        ("mamba", "eager", "collator.packing=none"),
        ("brand_new", "sdpa", "collator.packing=none"),
        ("gpt_neo", "sdpa", "collator.packing=none"),
        # another attention keeps them apart
        ("stablelm", "flash_attention_2", "model.attention=sdpa"),
    ],
)
def test_seen(family, attention, hint, unsolved):
    context = with_family(unsolved(PACKED, {"model.attention": attention}), family)
    assert findings(context) == [("LF510", "error", hint)]
    spec = context.spec.model_copy(
        update={"collator": context.spec.collator.model_copy(update={"packing": "none"})}
    )
    assert findings(Context(spec, context.facts)) == []


def test_the_reason_is_told(unsolved):
    context = with_family(unsolved(PACKED, {"model.attention": "eager"}), "mamba")
    (found,) = packed_samples_see_each_other(context)
    assert found.notes == ("its layers carry state from each sample into the next",)
    assert found.key == "collator.packing"


def test_a_model_that_is_not_here_is_a_warning(unsolved):
    context = with_family(unsolved(PACKED, {"model.attention": "sdpa"}), None)
    assert findings(context) == [("LF510", "warning", "collator.packing=none")]


def test_an_old_transformers(unsolved):
    context = with_family(unsolved(PACKED, {"model.attention": "sdpa"}), "llama")
    facts = dataclasses.replace(context.facts, versions={"transformers": "4.57.1"})
    assert findings(Context(context.spec, facts)) == [("LF510", "error", "collator.packing=none")]


def test_a_solved_packed_plan_has_nothing_to_say(solved):
    assert findings(solved(PACKED)) == []


@pytest.mark.parametrize(
    ("key", "value", "severity", "hint"),
    [
        ("trainer.group_by_length", True, "error", "trainer.group_by_length=false"),
        ("data.streaming", True, "error", "collator.packing=none"),
        ("trainer.neftune_alpha", 5.0, "warning", "trainer.neftune_alpha=null"),
    ],
)
def test_undone(key, value, severity, hint, unsolved):
    def told(collator: str) -> list[tuple[str, str, str | None]]:
        context = unsolved(collator, {key: value, "model.attention": "sdpa"})
        return findings(with_family(context, "llama"))

    assert told(PACKED) == [("LF517", severity, hint)]
    assert told("collator=auto") == []
