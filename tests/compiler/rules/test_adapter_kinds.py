"""Virtual tokens and the room they take: what is derived leaves it, what is given is checked."""

from __future__ import annotations

import pytest

from llmforge.compiler.passes import check, compile_plan
from llmforge.compiler.rules.adapter_kinds import virtual_tokens_without_room

TINY = ("model=folder", "model.path=tiny")  # 64 positions


@pytest.mark.parametrize("option", ["prompt", "prefix"])
@pytest.mark.parametrize(("tokens", "length"), [(1, 63), (20, 44), (56, 8)])
def test_the_longest_sample_leaves_room(option, tokens, length, solved):
    context = solved(*TINY, f"lora={option}", {"lora.tokens": tokens})

    assert context.spec.collator.max_length == length
    assert [*virtual_tokens_without_room(context)] == []


@pytest.mark.parametrize("tokens", [57, 64, 500])
def test_no_room_at_all_is_refused(tokens, solved):
    """The shortest sample has eight tokens."""
    context = solved(*TINY, "lora=prompt", {"lora.tokens": tokens})

    (found,) = virtual_tokens_without_room(context)

    assert found.hint == "lora.tokens=16"
    better = solved(*TINY, "lora=prompt", {"lora.tokens": 16})
    assert [*virtual_tokens_without_room(better)] == []


def test_a_long_context_is_not_narrowed(solved):
    """2,048 tokens fit beside the virtual ones."""
    context = solved("model=llama3_2_1b", "lora=prompt")

    assert context.spec.collator.max_length == 2048


def test_the_reason_names_them(bench, monkeypatch):
    monkeypatch.chdir(bench)

    plan = compile_plan([*TINY, "lora=prefix", "hardware=cpu"])

    last = plan.origins.chain("collator.max_length")[-1]
    assert last.reason == "the model sees 64 tokens, 20 of them virtual"
    assert "lora.tokens" in last.reads
    plain = compile_plan([*TINY, "lora=small", "hardware=cpu"])
    assert plain.origins.chain("collator.max_length")[-1].reason == "the model sees 64 tokens"
    assert plain.settings["collator"]["max_length"] == 64


@pytest.mark.parametrize("option", ["small", "eva", "adalora", "vera"])
def test_a_broken_pattern_is_told_once_and_stops_nothing_else(option, bench, monkeypatch):
    monkeypatch.chdir(bench)

    found = check([*TINY, f"lora={option}", "lora.targets='*_proj'", "hardware=cpu"]).diagnostics

    assert [d.code for d in found if d.is_error] == ["LF601"]
