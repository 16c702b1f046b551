"""Neutral shapes to each family's own config; what cannot be built is refused with a near shape."""

from __future__ import annotations

from decimal import ROUND_DOWN, Decimal
from functools import cache
from typing import Any, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.compiler.facts.families import facts_from_config, known_families
from llmforge.compiler.facts.shapes import config_of, shape_faults
from llmforge.compose import compose, options
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


# Well-known models: `conf/model` has their shapes, so that they plan with no network. The counts
# are the published ones: of model cards, papers and the hub's own count of the safetensors, with
# as many digits as were published.

PUBLISHED = {
    "opt_125m": "125M",
    "opt_350m": "331M",
    "opt_1_3b": "1.3B",
    "opt_2_7b": "2.7B",
    "opt_6_7b": "6.7B",
    "opt_13b": "13B",
    "opt_30b": "30B",
    "opt_66b": "66B",
    "gpt_neo_125m": "125M",
    "gpt_neo_1_3b": "1.3B",
    "gpt_neo_2_7b": "2.7B",
    "gpt_j_6b": "6.05B",
    "gpt_neox_20b": "20,554,567,680",
    "pythia_70m": "70,426,624",
    "pythia_160m": "162,322,944",
    "pythia_410m": "405,334,016",
    "pythia_1b": "1,011,781,632",
    "pythia_1_4b": "1,414,647,808",
    "pythia_2_8b": "2,775,208,960",
    "pythia_6_9b": "6,857,302,016",
    "pythia_12b": "11,846,072,320",
    "llama2_7b": "6,738,415,616",
    "llama2_13b": "13,015,864,320",
    "llama2_70b": "68,976,648,192",
    "llama3_8b": "8,030,261,248",
    "llama3_70b": "70,553,706,496",
    "llama3_1_8b": "8,030,261,248",
    "llama3_1_70b": "70,553,706,496",
    "llama3_2_1b": "1,235,814,400",
    "llama3_2_3b": "3,212,749,824",
    "tinyllama_1_1b": "1,100,048,384",
    "smollm2_135m": "134,515,008",
    "smollm2_360m": "362M",
    "smollm2_1_7b": "1.71B",
    "mistral_7b_v0_1": "7,241,732,096",
    "mistral_7b_v0_3": "7,248,023,552",
    "mixtral_8x7b": "46,702,792,704",
    "qwen2_5_0_5b": "494,032,768",
    "qwen2_5_1_5b": "1,543,714,304",
    "qwen2_5_3b": "3,085,938,688",
    "qwen2_5_7b": "7,615,616,512",
    "qwen2_5_14b": "14.7B",
    "qwen2_5_32b": "32,763,876,352",
    "qwen2_5_72b": "72,706,203,648",
    "qwen3_0_6b": "596,049,920",
    "qwen3_1_7b": "1,720,574,976",
    "qwen3_4b": "4,022,468,096",
    "qwen3_8b": "8,190,735,360",
    "qwen3_14b": "14,768,307,200",
    "qwen3_32b": "32,762,123,264",
    "qwen3_30b_a3b": "30.5B",
    "gemma2_2b": "2,614,341,888",
    "gemma2_9b": "9,241,705,984",
    "gemma2_27b": "27,227,128,320",
    "gemma3_270m": "268,098,176",
    "gemma3_1b": "999,885,952",
    "gemma3_4b": "4,300,079,472",
    "gemma3_12b": "12,187,325,040",
    "gemma3_27b": "27,432,406,640",
    "phi2": "2.7B",
    "phi3_mini": "3.8B",
    "phi4": "14.7B",
    "phi4_mini": "3.8B",
    "stablelm_3b": "2,795,443,200",
}
ACTIVE = {"mixtral_8x7b": "12.9B", "qwen3_30b_a3b": "3.3B"}
"""Parameters that work on a token, as published."""


def published(parameters: int, digits: str) -> bool:
    """Is the count the published one, rounded or cut as that was?"""
    if not digits.endswith(("M", "B")):
        return parameters == int(digits.replace(",", ""))
    unit = 10**6 if digits.endswith("M") else 10**9
    step = Decimal(1).scaleb(-len(digits[:-1].partition(".")[2]))
    given = Decimal(parameters) / unit
    return Decimal(digits[:-1]) in (given.quantize(step), given.quantize(step, ROUND_DOWN))


@cache
def shape_of(option: str) -> dict[str, Any]:
    """`model.shape` as `model=<option>` composes it."""
    found = compose([f"model={option}"]).values["model"]["shape"]
    assert isinstance(found, dict)
    return found


def test_every_option_with_a_shape_has_its_published_count():
    own = {"folder", "hub", "small_llama", "tiny_llama", "trained"}
    assert {option.name for option in options("model")} - own == set(PUBLISHED)


@pytest.mark.parametrize("option", PUBLISHED)
def test_parameters_are_the_published_ones(option):
    facts = facts_from_config(shape_of(option))

    assert published(facts.parameters, PUBLISHED[option]), facts.parameters
    if facts.experts:
        assert published(facts.active_parameters, ACTIVE[option]), facts.active_parameters


@pytest.mark.parametrize("option", PUBLISHED)
def test_option_says_how_large_the_model_is(option):
    facts = facts_from_config(shape_of(option))
    (doc,) = [found.doc for found in options("model") if found.name == option]
    billions = f"{facts.parameters / 1e9:.2f} billion"
    size = billions if facts.parameters >= 999_500_000 else f"{facts.parameters / 1e6:.0f} million"

    assert f": {size} parameters" in doc
    assert doc.endswith(f"; {facts.context:,} tokens.")


def test_counts_are_compared_to_the_published_digits():
    assert published(2_651_596_800, "2.7B")
    assert not published(2_851_596_800, "2.7B")
    assert not published(125_239_297, "125,239,296")
