"""The arithmetic of splits, caps and weights."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.schema.data import MixData
from llmforge.sources.counts import Share, SourceRows, held_out, share_out

SHIPPED: dict[str, Any] = {
    "kind": "mix", "shape": "mixed", "sources": {}, "weights": None, "exhausted": "first",
    "eval_fraction": 0.0, "split_seed": 0, "max_train_rows": None, "max_eval_rows": None,
    "eval_surplus": "drop", "shuffle": True, "max_bad_rows": 0, "max_untrained_rows": 0,
    "max_cut_tokens": None, "require_end_token": True, "max_overlap": None, "workers": 1,
    "streaming": False,
}  # fmt: skip


def shares(rows: dict[str, SourceRows], **changes: Any) -> dict[str, Share]:
    data = MixData.model_construct(**{**SHIPPED, **changes})
    return share_out(rows, data, {name: f"{name}_eval" for name in rows})


def taken(rows: dict[str, int], **changes: Any) -> list[int]:
    found = shares({name: SourceRows(count) for name, count in rows.items()}, **changes)
    return [share.taken for share in found.values()]


@pytest.mark.parametrize(
    ("count", "fraction", "expected"),
    [(1, 0.5, 0), (2, 0.5, 1), (10, 0.04, 1), (10, 0.96, 9), (10, 0.0, 0), (0, 0.5, 0)],
)
def test_the_rounded_share_at_least_one_never_all(count, fraction, expected):
    assert held_out(count, fraction) == expected


@pytest.mark.parametrize(
    ("rows", "changes", "expected"),
    [
        (SourceRows(10), {}, Share(0, 10, 10, {})),
        (SourceRows(10), {"eval_fraction": 0.2}, Share(2, 8, 8, {"a_eval": 2})),
        # rows that the fold column or a set of its own holds out need no share
        (SourceRows(10, 3), {"eval_fraction": 0.2}, Share(0, 10, 10, {"a_eval": 3})),
        (SourceRows(10, 0, {"x": 4}), {"eval_fraction": 0.2}, Share(0, 10, 10, {"x": 4})),
        (SourceRows(10, 0, {"x": 4}), {"max_eval_rows": 1}, Share(0, 10, 10, {"x": 1})),
        (
            SourceRows(10, 0, {"x": 4, "y": 2}), {"max_eval_rows": 1, "eval_surplus": "train"},
            Share(0, 14, 14, {"x": 1, "y": 1}),
        ),
        (
            SourceRows(10), {"eval_fraction": 0.5, "max_eval_rows": 1, "eval_surplus": "train",
                             "max_train_rows": 3},
            Share(5, 9, 3, {"a_eval": 1}),
        ),
    ],
)  # fmt: skip
def test_what_one_source_gives(rows, changes, expected):
    assert shares({"a": rows}, **changes) == {"a": expected}


@pytest.mark.parametrize(
    ("rows", "weights", "exhausted", "expected"),
    [
        ((100, 100), (1.0, 1.0), "first", [100, 100]),
        ((100, 10), (1.0, 1.0), "first", [10, 10]),
        ((100, 10), (1.0, 1.0), "all", [100, 100]),
        ((100, 10), (0.9, 0.1), "first", [90, 10]),
        ((100, 10), (0.9, 0.1), "all", [100, 11]),
        ((30, 10), (0.3, 0.1), "first", [30, 10]),  # 0.3 / 0.1 is not quite 3
        ((100, 1), (1.0, 1000.0), "first", [1, 1]),  # every source gives at least one
        ((100, 0), (1.0, 1.0), "first", [100, 0]),  # only held out
        ((3_000_000_000, 1), (3e9, 1.0), "all", [3_000_000_000, 1]),
    ],
)
def test_weights(rows, weights, exhausted, expected):
    given = dict(zip("ab", weights, strict=True))

    assert taken(dict(zip("ab", rows, strict=True)), weights=given, exhausted=exhausted) == expected


SIZES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 5000), min_size=1)


@settings(max_examples=50, deadline=None, derandomize=True)
@given(rows=SIZES, draw=st.data(), exhausted=st.sampled_from(["first", "all"]))
def test_weighted_rows_keep_the_proportion_and_use_up_a_source(rows, draw, exhausted):
    weights = {name: draw.draw(st.floats(0.01, 100.0)) for name in rows}

    found = taken(rows, weights=weights, exhausted=exhausted)

    ratios = [count / rows[name] for name, count in zip(rows, found, strict=True)]
    used_up = max(ratios) if exhausted == "first" else min(ratios)
    limits = {name: rows[name] / weights[name] for name in rows}
    tight = (min if exhausted == "first" else max)(limits.values())
    for name, count in zip(rows, found, strict=True):
        assert count == pytest.approx(weights[name] * tight, abs=1.000001)
    assert used_up == pytest.approx(1.0) or min(found) == 1
    if exhausted == "first":
        assert all(count <= rows[name] for name, count in zip(rows, found, strict=True))


@settings(max_examples=50, deadline=None, derandomize=True)
@given(rows=SIZES, limit=st.integers(1, 6000))
def test_a_cap_over_all_sources_is_met_exactly_and_in_proportion(rows, limit):
    found = taken(rows, max_train_rows=limit)

    total = sum(rows.values())
    assert sum(found) == min(limit, total)
    for name, count in zip(rows, found, strict=True):
        assert 0 <= count <= rows[name]
        assert count == pytest.approx(rows[name] * min(1.0, limit / total), abs=1.0)
