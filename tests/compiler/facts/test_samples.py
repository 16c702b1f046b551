"""How many samples an epoch has: certain, counted, or foretold."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmforge.compiler.passes import check, compile_plan
from llmforge.store import MANIFEST, REPORT, prepared_folder

ROW = '{"prompt": "How many legs has a spider?", "completion": "8, and a bee has six."}\n'
PACKED = ("collator=packed", "model=small_llama")


@pytest.fixture(autouse=True)
def here(work: Path) -> Path:
    (work / "rows.jsonl").write_text(ROW * 1000)
    return work


def plan(*overrides: str) -> Any:
    return compile_plan(["data=jsonl", "data.train=rows.jsonl", "data.eval_fraction=0.1",
                         "hardware=cpu", "evaluation.every=25%", *overrides])  # fmt: skip


def samples(*overrides: str) -> dict[str, Any]:
    found: dict[str, Any] = plan(*overrides).facts["data"]["samples"]
    return found


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), (900, True, "rows")),
        (("collator.truncation=left",), (900, True, "rows")),
        (("collator.truncation=refuse",), (900, True, "rows")),
        (("data.max_train_rows=70",), (70, True, "rows")),
        # rows may be left out or become several
        (("collator.truncation=drop",), (900, False, "rows")),
        (("collator.truncation=split",), (900, False, "samples")),
        (("data.max_untrained_rows=1",), (900, False, "rows")),
        (("data.max_bad_rows=1%",), (900, False, "rows")),
    ],
)
def test_rows_that_are_samples(overrides, expected):
    found = samples(*overrides)

    assert (found["count"], found["exact"], found["what"]) == expected


def test_packs_are_foretold_from_the_size_of_the_files():
    found = samples(*PACKED, "collator.max_length=200")

    tokens_by_size = 900 * (len(ROW) / 4 + 1)
    assert not found["exact"]
    assert found["count"] == pytest.approx(tokens_by_size / 200, rel=0.01)


def test_packs_of_the_built_in_conversations_are_foretold_about_right():
    found = compile_plan(["collator=packed", "hardware=cpu"]).facts["data"]["samples"]

    assert found["what"] == "packs"
    assert 1000 < found["count"] < 1300  # 1,150 when they are prepared


def test_what_was_prepared_is_counted():
    before = plan(*PACKED)
    folder = prepared_folder(".llmforge", before.stages["prepare"])
    folder.mkdir(parents=True)
    report = {"packing": {"packs": 77}, "train": {"samples": 900}}
    (folder / REPORT).write_text(json.dumps(report))
    (folder / MANIFEST).write_text(json.dumps({"fingerprint": before.stages["prepare"]}))

    after = plan(*PACKED)

    assert after.facts["data"]["samples"] == {"count": 77, "exact": True, "what": "packs"}
    assert (before.settled, after.settled) == (False, True)
    assert after.stages == before.stages, "the run is the same one"
    assert after.estimate["steps"] == 6 * -(-77 // 32)
    assert samples(*PACKED, "collator.max_length=100")["exact"] is False, "of other samples"


def test_given_steps_are_settled_whatever_the_samples_are():
    given = plan(*PACKED, "trainer.epochs=null", "trainer.max_steps=7")

    assert given.settled
    assert not given.facts["data"]["samples"]["exact"]


@pytest.mark.parametrize(
    ("override", "code"),
    [("evaluation.every=9999", "LF202"), ("checkpoint.every=9999", "LF203"),
     ("schedule.warmup=9999", "LF201")],
)  # fmt: skip
def test_a_guess_refuses_nothing(override, code):
    """Steps that are too few by a guess may be enough once the data are prepared."""

    def codes(*overrides: str) -> list[str]:
        given = ["data=jsonl", "data.train=rows.jsonl", "hardware=cpu", override, *overrides]
        return [found.code for found in check(given).diagnostics]

    assert code in codes()
    guessed = codes(*PACKED)
    assert code not in guessed
    assert "LF513" in guessed
