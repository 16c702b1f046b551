"""Rules of tokens: those that a checkpoint did not learn, and those that have no row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmforge.compiler.facts.tokenizer import TokenizerFacts
from llmforge.compiler.rules.tokens import (
    flash_attention_missing,
    new_tokens_frozen,
    tokenizer_beyond_rows,
)

TINY = ("model=folder", "model.path=tiny")
BOTH = ["embed_tokens", "lm_head"]
OWN = {"tokenizer.source": "chat"}


def told(rule, context, tokenizer):
    context = replace(context, facts=replace(context.facts, tokenizer=tokenizer))
    return [(finding.message, finding.hint) for finding in rule(context)]


class TestNewTokens:
    def test_they_are_named(self, solved):
        context = solved(*TINY, "lora=small", OWN)
        found = told(new_tokens_frozen, context, TokenizerFacts(300, ("<a>", "<b>", "<c>", "<d>")))
        assert found == [
            (
                "tokens that the checkpoint did not learn (`<a>`, `<b>`, `<c>` and 1 more), and "
                "the adapter leaves the checkpoint's embedding frozen",
                "tokenizer.source=model",
            )
        ]

    @pytest.mark.parametrize("new", [(), None])
    def test_none_are_no_trouble(self, new, solved):
        """Nor is what cannot be known, because the model's own tokenizer is not here."""
        context = solved(*TINY, "lora=small", OWN)
        assert told(new_tokens_frozen, context, TokenizerFacts(300, new)) == []

    @pytest.mark.parametrize(
        ("saved", "refused"), [(BOTH, False), (["embed_tokens"], True), (["norm"], True)]
    )
    def test_embedding_and_head_learn_them(self, saved, refused, solved):
        context = solved(*TINY, "lora=small", {**OWN, "lora.modules_to_save": saved})
        found = told(new_tokens_frozen, context, TokenizerFacts(300, ("<a>",)))
        assert bool(found) is refused

    def test_without_an_adapter_everything_learns(self, solved):
        context = solved(*TINY, OWN)
        assert told(new_tokens_frozen, context, TokenizerFacts(300, ("<a>",))) == []

    @pytest.mark.parametrize("option", ["prompt", "ia3", "vera"])
    def test_of_every_kind_of_adapter(self, option, solved):
        context = solved(*TINY, f"lora={option}", OWN)
        assert told(new_tokens_frozen, context, TokenizerFacts(300, ("<a>",)))


class TestRows:
    @pytest.mark.parametrize(("rows", "refused"), [(300, False), (301, True), (12, False)])
    def test_each_token_has_one(self, rows, refused, solved):
        context = solved(*TINY, {"tokenizer.source": "chat"})
        found = told(tokenizer_beyond_rows, context, TokenizerFacts(rows, ()))
        expected = f"a tokenizer of {rows} tokens for 300 embedding rows"
        assert found == ([(expected, "tokenizer.source=model")] if refused else [])

    def test_a_model_from_scratch_can_have_more(self, solved):
        context = solved({"tokenizer.source": "chat", "model.vocabulary": 300})
        found = told(tokenizer_beyond_rows, context, TokenizerFacts(400, None))
        assert [hint for _, hint in found] == ["model.vocabulary=400"]


class TestFlashAttention:
    @pytest.mark.parametrize(
        ("attention", "installed", "refused"),
        [
            ("flash_attention_2", False, True),
            ("flash_attention_2", True, False),
            ("sdpa", False, False),
            ("auto", False, False),
        ],
    )
    def test_it_is_a_package(self, attention, installed, refused, solved, everything_installed):
        if not installed:
            del everything_installed["flash-attn"]
        context = solved(*TINY, "hardware=h200", {"model.attention": attention})
        found = [finding.hint for finding in flash_attention_missing(context)]
        assert found == (["model.attention=sdpa"] if refused else [])
