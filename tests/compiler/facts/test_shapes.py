"""Neutral shapes to each family's own config; what cannot be built is refused with a near shape."""

from __future__ import annotations

from typing import get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.compiler.facts.families import facts_from_config, known_families
from llmforge.compiler.facts.shapes import config_of, shape_faults
from llmforge.schema.model import Family, ScratchModel

FAMILIES = get_args(Family)
GROUPED = [
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "stablelm",
    "smollm3", "olmo2", "phi",
]  # fmt: skip


def shape(family: str = "llama", **changes: object) -> ScratchModel:
    values = {
        "kind": "scratch", "attention": "auto", "family": family, "layers": 2, "hidden": 32,
        "intermediate": 64, "heads": 4, "kv_heads": 4, "context": 128, "vocabulary": "auto",
        "tie_embeddings": True, **changes,
    }  # fmt: skip
    return ScratchModel.model_validate(values)


def test_every_family_of_the_schema_has_formulas():
    # experts have no neutral shape
    assert set(FAMILIES) == set(known_families()) - {"mixtral", "qwen2_moe", "qwen3_moe"}


@pytest.mark.parametrize("family", FAMILIES)
def test_facts_are_those_of_the_neutral_shape(family):
    facts = facts_from_config(config_of(shape(family), 300))

    assert (facts.layers, facts.hidden, facts.heads, facts.kv_heads, facts.intermediate) == (
        2, 32, 4, 4, 64,
    )  # fmt: skip
    assert (facts.context, facts.vocabulary, facts.tied_embeddings) == (128, 300, True)
    assert facts.head_dim == 8


@pytest.mark.parametrize("family", GROUPED)
def test_grouped_query_attention(family):
    facts = facts_from_config(config_of(shape(family, kv_heads=2), 300))

    assert facts.kv_heads == 2


@pytest.mark.parametrize(
    ("model", "fault"),
    [
        (shape(hidden=30), ("model.hidden=32", "width 30 does not divide over 4 heads")),
        (shape(hidden=37), ("model.hidden=40", "width 37 does not divide over 4 heads")),
        (shape("gpt2", hidden=37), ("model.hidden=36", "width 37 does not divide over 4 heads")),
        (shape(hidden=1), ("model.hidden=8", "width 1 does not divide over 4 heads")),
        (
            shape(hidden=36),
            ("model.hidden=40", "heads of width 9 are odd; rotary positions need pairs"),
        ),
        (shape(kv_heads=3), ("model.kv_heads=4", "4 heads do not divide over 3 key-value heads")),
        (
            shape("gpt_neox", kv_heads=2),
            ("model.kv_heads=4", "gpt_neox has no grouped-query attention"),
        ),
    ],
)
def test_fault_and_the_nearest_shape(model, fault):
    assert [(d.hint, d.message) for d in shape_faults(model)] == [fault]


@pytest.mark.parametrize("family", ["opt", "gpt2", "gpt_neo"])
def test_learned_positions_need_no_pairs(family):
    assert shape_faults(shape(family, hidden=36)) == []


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    family=st.sampled_from(FAMILIES),
    hidden=st.integers(1, 500),
    heads=st.integers(1, 24),
    kv_heads=st.integers(1, 24),
)
def test_hints_lead_to_a_shape_that_can_be_built(family, hidden, heads, kv_heads):
    model = shape(family, hidden=hidden, heads=heads, kv_heads=kv_heads)

    for found in shape_faults(model):
        name, _, value = found.hint.removeprefix("model.").partition("=")
        model = model.model_copy(update={name: int(value)})

    assert shape_faults(model) == []
    facts_from_config(config_of(model, 300))  # raises BadConfig for what cannot be built
