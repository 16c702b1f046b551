"""Rows of every stream: which are held out, repeated, left over, in which order."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmforge.build.data import (
    Interleaved,
    Splits,
    builtin_splits,
    hold_out,
    open_splits,
    rows_of,
)
from llmforge.build.errors import DataChanged
from llmforge.sources.base import Row
from llmforge.sources.flow import Dropped

TEXT = {"data.shape": "text", "collator.kind": "lm"}


def numbered(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"text": f"row {number}", **more} for number in range(count)]


def texts(items: Any) -> list[str]:
    return [row.values["text"] for row in rows_of(items)]


def sets(splits: Splits) -> dict[str, list[str]]:
    return {name: texts(items) for name, items in splits.evaluation.items()}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


class TestHoldOut:
    def test_as_many_as_asked_for(self):
        held = hold_out(100, 10, 7)
        assert len(held) == 10
        assert held <= set(range(100))

    def test_the_same_on_every_machine(self):
        assert sorted(hold_out(20, 5, 7)) == [1, 2, 5, 11, 17]

    def test_another_seed_holds_out_others(self):
        assert hold_out(1000, 100, 1) != hold_out(1000, 100, 2)

    def test_any_seed_is_taken(self):
        assert len(hold_out(10, 2, 2**40)) == 2


class TestOneSource:
    def test_held_out_rows_and_training_rows_are_all_rows_once_in_order(self, make_plan):
        splits = open_splits(make_plan(TEXT | {"data.eval_fraction": 0.3}, rows=numbered(10)))
        train, held = texts(splits.train), sets(splits)["eval"]
        assert len(held) == 3
        assert sorted(train + held) == [f"row {n}" for n in range(10)]
        assert train == sorted(train)
        assert texts(splits.train) == train, "rows can be read again"

    def test_the_runs_seed_does_not_choose_the_held_out_rows(self, make_plan):
        plans = [make_plan(TEXT | {"seed": seed}, rows=numbered(40)) for seed in (1, 2)]
        assert sets(open_splits(plans[0])) == sets(open_splits(plans[1]))
        other = make_plan(TEXT | {"data.split_seed": 1}, rows=numbered(40))
        assert sets(open_splits(other)) != sets(open_splits(plans[0]))

    def test_rows_know_their_file_and_line(self, make_plan, tmp_path: Path):
        path = tmp_path / "gaps.jsonl"
        path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "b\\u2028c"}')
        plan = make_plan(TEXT | {"data.train": str(path), "data.eval_fraction": 0.0})
        assert [(row.place, row.values["text"]) for row in open_splits(plan).train] == [
            (f"{path}:1", "a"),
            (f"{path}:4", "b\u2028c"),
        ]

    def test_an_evaluation_file_holds_out_nothing(self, make_plan, tmp_path: Path):
        held = write(tmp_path / "held.jsonl", [{"text": "held"}])
        splits = open_splits(make_plan(TEXT | {"data.evaluation": held}, rows=numbered(4)))
        assert len(texts(splits.train)) == 4
        assert sets(splits) == {"eval": ["held"]}

    def test_several_named_sets(self, make_plan, tmp_path: Path):
        near, far = (write(tmp_path / f"{n}.jsonl", [{"text": n}] * 3) for n in ("near", "far"))
        given = {"data.evaluation": {"near": near, "far": [far, near]}, "data.max_eval_rows": 4}
        splits = open_splits(make_plan(TEXT | given, rows=numbered(2)))
        assert sets(splits) == {"near": ["near"] * 3, "far": ["far"] * 3 + ["near"]}

    def test_several_files_are_read_in_order_and_capped_after_holding_out(
        self, make_plan, tmp_path: Path
    ):
        files = [
            write(tmp_path / f"{name}.jsonl", [{"text": f"{name}{n}"} for n in range(4)])
            for name in "ab"
        ]
        given = TEXT | {"data.train": files, "data.eval_fraction": 0.5}
        uncapped = open_splits(make_plan(given))
        capped = open_splits(make_plan(given | {"data.max_train_rows": 2, "data.max_eval_rows": 1}))
        assert texts(capped.train) == texts(uncapped.train)[:2]
        assert sets(capped)["eval"] == sets(uncapped)["eval"][:1]
        assert {text[0] for text in texts(uncapped.train)} == {"a", "b"}

    def test_surplus_evaluation_rows_are_trained_on_after_the_others(self, make_plan, tmp_path):
        held = write(tmp_path / "held.jsonl", [{"text": f"held {n}"} for n in range(5)])
        given = {"data.evaluation": held, "data.max_eval_rows": 2, "data.eval_surplus": "train"}
        splits = open_splits(make_plan(TEXT | given, rows=numbered(2)))
        assert texts(splits.train) == ["row 0", "row 1", "held 2", "held 3", "held 4"]
        assert sets(splits) == {"eval": ["held 0", "held 1"]}

    def test_the_fold_column_splits(self, make_plan):
        rows = [{"text": f"{fold} {n}", "_fold": fold} for n in range(3)
                for fold in ("train", "valid")]  # fmt: skip
        splits = open_splits(make_plan(TEXT | {"data.fold": "_fold"}, rows=rows))
        assert texts(splits.train) == ["train 0", "train 1", "train 2"]
        assert sets(splits) == {"eval": ["valid 0", "valid 1", "valid 2"]}

    def test_a_fold_column_that_holds_nothing_out_loses_no_row(self, make_plan):
        given = TEXT | {"data.fold": "_fold", "data.eval_fraction": 0.25}
        plan = make_plan(given, rows=numbered(8, _fold="train"))
        splits = open_splits(plan)
        counts = plan.facts["data"]["rows"]
        assert counts == {"train": len(texts(splits.train)),
                          "evaluation": sum(map(len, sets(splits).values()))}  # fmt: skip
        assert sum(counts.values()) == 8

    def test_columns_are_renamed(self, make_plan):
        plan = make_plan(
            {
                "data.shape": "prompt_completion",
                "collator.kind": "completion",
                "data.fields.prompt": "question",
                "data.fields.completion": "answer",
                "data.eval_fraction": 0.0,
            },
            rows=[{"question": "q", "answer": "a", "source": "x"}],
        )
        assert [row.values for row in rows_of(open_splits(plan).train)] == [
            {"prompt": "q", "completion": "a"}
        ]

    def test_what_is_left_out_is_told_once_over_all_streams(self, make_plan, tmp_path: Path):
        held = write(tmp_path / "held.jsonl", [{"text": "x", "n": 1}, {"text": "", "n": 1}])
        rows = [*numbered(4, n=1), {"text": "", "n": 1}, {"text": "x", "n": 0}]
        given = {
            "data.evaluation": held, "data.max_eval_rows": 1, "data.eval_surplus": "train",
            "data.max_bad_rows": 2, "data.select": ["n == 1"],
        }  # fmt: skip
        splits = open_splits(make_plan(TEXT | given, rows=rows))
        every = [*splits.train, *(item for items in splits.evaluation.values() for item in items)]
        dropped = [(Path(item.source).name, item.line, item.reason) for item in every
                   if isinstance(item, Dropped)]  # fmt: skip
        assert sorted(dropped) == [
            ("held.jsonl", 2, "bad"), ("train.jsonl", 5, "bad"), ("train.jsonl", 6, "not_selected"),
        ]  # fmt: skip

    def test_a_file_that_cannot_be_read_any_more_is_named(self, make_plan):
        plan = make_plan(TEXT, rows=numbered(4))
        Path(plan.settings["data"]["train"]).unlink()
        with pytest.raises(DataChanged, match="it could be read when the plan was made"):
            list(open_splits(plan).train)


class TestInterleaving:
    @staticmethod
    def woven(*counts: int) -> str:
        streams = [
            ([Row(name, n, {}) for n in range(count)], count)
            for name, count in zip("abc", counts, strict=False)
        ]
        return "".join(item.source for item in Interleaved(streams))

    @pytest.mark.parametrize(
        ("counts", "order"),
        [((3,), "aaa"), ((2, 2), "abab"), ((6, 2), "aabaaaba"), ((1, 3), "babb"), ((0, 2), "bb"),
         ((2, 2, 2), "abcabc")],
    )  # fmt: skip
    def test_each_source_is_spread_evenly(self, counts, order):
        assert self.woven(*counts) == order

    def test_any_stretch_holds_about_the_proportion(self):
        order = self.woven(900, 100)
        for begin in range(0, 1000, 50):
            assert 4 <= order[begin : begin + 50].count("b") <= 6


SIZES = st.dictionaries(st.sampled_from("abcd"), st.integers(1, 30), min_size=2)


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mix")


class TestMix:
    @settings(max_examples=40, deadline=None, derandomize=True,
              suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
    @given(
        sizes=SIZES,
        weights=st.none() | st.lists(st.floats(0.05, 20.0), min_size=4, max_size=4),
        exhausted=st.sampled_from(["first", "all"]),
        fraction=st.sampled_from([0.0, 0.2, 0.5]),
        cap=st.none() | st.integers(1, 40),
        eval_cap=st.none() | st.integers(1, 5),
        surplus=st.sampled_from(["drop", "train"]),
    )
    def test_rows_are_as_many_as_foretold(
        self, sizes, weights, exhausted, fraction, cap, eval_cap, surplus, make_mix, shared
    ):
        """What `share_out` foretells is what the streams give, and no row is lost: training rows,
        sets and what is left over are all rows, and only weights repeat any."""
        plan = make_mix(
            {
                name: write(shared / f"{name}.jsonl",
                            [{"text": f"{name}{n}"} for n in range(count)])
                for name, count in sizes.items()
            },
            weights=dict(zip(sizes, weights, strict=False)) if weights else None,
            exhausted=exhausted,
            eval_fraction=fraction,
            max_train_rows=cap,
            max_eval_rows=eval_cap,
            eval_surplus=surplus,
        )  # fmt: skip
        splits = open_splits(plan)
        train, held = texts(splits.train), sets(splits)
        facts = plan.facts["data"]

        assert len(train) == facts["rows"]["train"]
        assert {name: len(rows) for name, rows in held.items()} == facts["sets"]
        given_by = Counter(text[0] for text in train)
        for name, count in sizes.items():
            share = facts["sources"][name]["share"]
            assert given_by[name] == share["taken"]
            mine = Counter(text for text in train if text[0] == name)
            own = set(held.get(name, ()))
            assert not own & set(mine), "a held-out row is not trained on"
            left_over = count - len(own) - len(mine)
            assert left_over >= 0
            if weights is None and cap is None and (surplus == "train" or eval_cap is None):
                assert left_over == 0
            # repeated evenly: every row as often as any other, or once more
            if share["taken"] >= share["available"]:
                assert len(mine) == share["available"]
                assert max(mine.values()) - min(mine.values()) <= 1
            elif mine:
                assert set(mine.values()) == {1}
        assert texts(splits.train) == train


class TestBuiltin:
    def test_rows_are_split_by_the_generator_and_capped(self, make_plan):
        plan = make_plan({"data": {"kind": "builtin", "rows": 400, "generator_seed": 0,
                                   "eval_fraction": 0.1, "max_eval_rows": 5}})  # fmt: skip
        splits = builtin_splits(plan)
        train, held = list(splits.train), list(splits.evaluation["eval"])
        assert len(held) == 5
        assert len(train) > 300
        lines = [row.line for row in train + held]
        assert len(set(lines)) == len(lines), "each row has a number of its own"
        assert train[0].values["messages"][-1]["role"] == "assistant"

    @pytest.mark.parametrize("surplus", ["drop", "train"])
    def test_counts_are_those_of_the_plan(self, make_plan, surplus):
        plan = make_plan({"data": {"kind": "builtin", "rows": 400, "generator_seed": 0,
                                   "eval_fraction": 0.1, "max_eval_rows": 5,
                                   "eval_surplus": surplus}})  # fmt: skip
        splits = builtin_splits(plan)
        found = {"train": len(list(splits.train)), "evaluation": 5}
        assert found == plan.facts["data"]["rows"]
        assert (sum(found.values()) == 400) is (surplus == "train")

    def test_no_share_holds_out_nothing(self, make_plan):
        splits = builtin_splits(make_plan({"data": {"kind": "builtin", "rows": 400,
                                                    "generator_seed": 0,
                                                    "eval_fraction": 0.0}}))  # fmt: skip
        assert splits.evaluation == {}
        assert len(list(splits.train)) == 400
