"""Pairs are token for token what fine-tuning on each answer would see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmforge.build.parts import data_collator
from llmforge.build.preview import preview
from llmforge.build.sample import Pair, Rejected, Sample, fit
from llmforge.build.tokenizer import open_tokenizer
from llmforge.compiler.passes import compile_plan
from llmforge.stages.prepare import prepare

CHAT = [
    {
        "prompt": [{"role": "user", "content": f"say {n}"}],
        "chosen": f"yes {n} and more",
        "rejected": f"no {n}",
    }
    for n in range(8)
]
TEXT = [{"prompt": f"Q: {n}\nA:", "chosen": f" yes {n}", "rejected": " no"} for n in range(8)]
ALIKE = ("hardware=cpu", "tokenizer.vocabulary=300", "model.context=128", "data.eval_fraction=0",
         "evaluation.every=null", "data=jsonl", "data.max_cut_tokens=null")  # fmt: skip


def prepared(folder: Path, rows: list[Any], *more: str) -> Any:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return prepare(compile_plan([*ALIKE, "data.train=rows.jsonl", *more]))


@pytest.mark.parametrize("rows", [CHAT, TEXT], ids=["chat", "text"])
def test_each_answer_is_masked_as_fine_tuning_masks_it(
    rows: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    pairs = prepared(tmp_path, rows, "trainer=dpo")
    tokenizer = f"tokenizer.source={pairs.tokenizer_folder}"
    for side, ids, labels in (
        ("chosen", "input_ids", "labels"),
        ("rejected", "rejected_input_ids", "rejected_labels"),
    ):
        alone = [
            {"messages": [*row["prompt"], {"role": "assistant", "content": row[side]}]}
            if isinstance(row["prompt"], list)
            else {"prompt": row["prompt"], "completion": row[side]}
            for row in rows
        ]
        tuned = prepared(tmp_path, alone, tokenizer)
        assert pairs.train[ids] == tuned.train["input_ids"]
        assert pairs.train[labels] == tuned.train["labels"]
    lengths = zip(pairs.train["input_ids"], pairs.train["rejected_input_ids"], strict=True)
    assert pairs.train["length"] == [max(len(one), len(other)) for one, other in lengths]


def test_a_report_counts_both_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = prepared(tmp_path, CHAT, "trainer=dpo")
    tokens = sum(len(ids) for name in ("input_ids", "rejected_input_ids")
                 for ids in found.train[name])  # fmt: skip
    assert found.report["train"]["tokens"] == tokens
    assert found.report["train"]["used"] == 8


def test_a_preview_shows_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    found = prepared(tmp_path, CHAT, "trainer=dpo")
    tokenizer = open_tokenizer(found.tokenizer_folder)
    shown = preview(found.train, data_collator(found.plan, tokenizer), tokenizer, 1, 0)
    assert [item.title.split(", ")[1] for item in shown] == ["chosen", "rejected"]
    said = ["".join(text for text, state in item.pieces if state == "trained") for item in shown]
    assert said[0].startswith("yes")
    assert said[1].startswith("no")


def pair(chosen: list[int], rejected: list[int], prompt: int = 2) -> Pair:
    return Pair(*(Sample(ids, [-100] * prompt + ids[prompt:]) for ids in (chosen, rejected)))


def test_a_pair_is_cut_on_both_sides():
    [found] = fit(pair([1, 2, 3, 4, 5, 6], [1, 2, 7, 8, 9]), 4, "right")
    assert isinstance(found, Pair)
    assert found.ids.tolist() == [1, 2, 3, 4]
    assert found.rejected.ids.tolist() == [1, 2, 7, 8]
    assert found.cut == 3


def test_a_pair_that_cutting_makes_the_same_is_left_out():
    found = fit(pair([1, 2, 3, 4, 5], [1, 2, 3, 4, 6]), 4, "right")
    assert found == Rejected("same_answers", "after cutting 5 tokens")


def test_a_pair_that_loses_an_answer_is_left_out():
    found = fit(pair([1, 2, 3], [1, 2, 4]), 2, "right")
    assert isinstance(found, Rejected)
    assert found.reason == "no_trained_token"


def test_a_pair_that_is_too_long_is_dropped_by_its_longer_answer():
    found = fit(pair([1, 2, 3], [1, 2, 4, 5, 6]), 4, "drop")
    assert found == Rejected("over_max_length", "rejected, 5 tokens")
