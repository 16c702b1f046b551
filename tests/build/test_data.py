"""Rows of files and of the built-in set, and which of them are held out."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmforge.build.data import builtin_files, hold_out, jsonl_files
from llmforge.build.errors import DataRefused

BUILTIN = {
    "kind": "builtin",
    "rows": 400,
    "generator_seed": 0,
    "shape": "messages",
    "eval_fraction": 0.1,
    "max_train_rows": None,
    "max_eval_rows": None,
    "shuffle": True,
}

TEXT = {"data.shape": "text", "collator.kind": "lm"}


def numbered(count: int) -> list[dict[str, str]]:
    return [{"text": f"row {number}"} for number in range(count)]


def texts(rows) -> list[str]:
    return [row.values["text"] for row in rows]


class TestHoldOut:
    @pytest.mark.parametrize(
        ("rows", "fraction", "count"),
        [
            (100, 0.1, 10),
            (10, 0.01, 1),
            (2, 0.9, 1),
            (1, 0.5, 0),
            (100, 0.0, 0),
            (10, 0.19, 2),
            (3, 0.9, 2),
        ],
    )
    def test_the_rounded_share_at_least_one_never_all(self, rows, fraction, count):
        assert len(hold_out(rows, fraction, 7)) == count

    def test_the_same_on_every_machine(self):
        assert sorted(hold_out(20, 0.25, 7)) == [1, 2, 5, 11, 17]

    def test_another_seed_holds_out_others(self):
        assert hold_out(1000, 0.1, 1) != hold_out(1000, 0.1, 2)

    def test_any_seed_is_taken(self):
        assert len(hold_out(10, 0.2, 2**40)) == 2


class TestJsonl:
    def test_held_out_rows_and_training_rows_are_all_rows_once_in_order(self, make_plan):
        plan = make_plan(TEXT | {"data.eval_fraction": 0.3}, rows=numbered(10))
        splits = jsonl_files(plan)
        train, held = texts(splits.train), texts(splits.evaluation)
        assert len(held) == 3
        assert sorted(train + held) == [f"row {n}" for n in range(10)]
        assert train == sorted(train)
        assert texts(splits.train) == train, "rows can be read again"

    def test_rows_know_their_file_and_line(self, make_plan, tmp_path: Path):
        path = tmp_path / "gaps.jsonl"
        path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\n\n  \n{"text": "b\\u2028c"}')
        plan = make_plan(TEXT | {"data.train": str(path), "data.eval_fraction": 0.0})
        rows = list(jsonl_files(plan).train)
        assert [(row.place, row.values["text"]) for row in rows] == [
            (f"{path}:1", "a"),
            (f"{path}:4", "b\u2028c"),
        ]

    def test_an_evaluation_file_holds_out_nothing(self, make_plan, tmp_path: Path):
        held = tmp_path / "held.jsonl"
        held.write_text('{"text": "held"}\n')
        plan = make_plan(TEXT | {"data.evaluation": str(held)}, rows=numbered(4))
        splits = jsonl_files(plan)
        assert len(texts(splits.train)) == 4
        assert texts(splits.evaluation) == ["held"]

    def test_several_files_are_read_in_order_and_capped_after_holding_out(
        self, make_plan, tmp_path: Path
    ):
        for name in "ab":
            (tmp_path / name).write_text("".join(f'{{"text": "{name}{n}"}}\n' for n in range(4)))
        files = [str(tmp_path / "a"), str(tmp_path / "b")]
        settings = TEXT | {"data.train": files, "data.eval_fraction": 0.5}
        uncapped = jsonl_files(make_plan(settings))
        capped = jsonl_files(
            make_plan(settings | {"data.max_train_rows": 2, "data.max_eval_rows": 1})
        )
        assert texts(capped.train) == texts(uncapped.train)[:2]
        assert texts(capped.evaluation) == texts(uncapped.evaluation)[:1]
        assert {text[0] for text in texts(uncapped.train)} == {"a", "b"}

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
        assert [row.values for row in jsonl_files(plan).train] == [
            {"prompt": "q", "completion": "a"}
        ]

    @pytest.mark.parametrize("row", [{"txt": "a"}, {"text": 3}, {"text": None}, ["text"]])
    def test_a_row_of_another_kind_is_refused_by_line(self, make_plan, row):
        plan = make_plan(TEXT | {"data.eval_fraction": 0.0}, rows=[{"text": "a"}, row])
        with pytest.raises(DataRefused, match=r"train\.jsonl:2 has no usable `text`"):
            list(jsonl_files(plan).train)


class TestBuiltin:
    def test_rows_are_split_by_the_generator_and_capped(self, make_plan):
        plan = make_plan({"data": BUILTIN | {"max_eval_rows": 5}})
        splits = builtin_files(plan)
        train, held = list(splits.train), list(splits.evaluation)
        assert len(held) == 5
        assert len(train) > 300
        lines = [row.line for row in train + held]
        assert len(set(lines)) == len(lines), "each row has a number of its own"
        assert train[0].values["messages"][-1]["role"] == "assistant"

    def test_no_share_holds_out_nothing(self, make_plan):
        splits = builtin_files(make_plan({"data": BUILTIN | {"eval_fraction": 0.0}}))
        assert splits.evaluation is None
        assert len(list(splits.train)) == 400
