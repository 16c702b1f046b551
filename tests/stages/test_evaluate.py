"""Figures on held-out rows: loss, exact match, samples."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from llmforge.build.parts import Parts, build_parts
from llmforge.build.trainer import build_trainer
from llmforge.stages.evaluate import answers_during, evaluate
from llmforge.stages.prepare import prepare


@pytest.fixture
def parts_for(make_plan):
    def make(changes: dict[str, Any] | None = None, rows: Any = None):
        plan = make_plan(changes, rows)
        return plan, build_parts(plan, prepare(plan))

    return make


@pytest.fixture(scope="module")
def pairs() -> list[dict[str, str]]:
    return [{"prompt": f"{a} and {a}?", "completion": f"{a * 2}"} for a in range(1, 9)]


def test_all_figures(parts_for, settings):
    plan, parts = parts_for()
    found = evaluate(plan, parts)
    assert set(found) == {
        "eval_loss",
        "eval_perplexity",
        "eval_tokens",
        "exact_match",
        "exact_match_rows",
        "samples",
    }
    assert found["eval_perplexity"] == pytest.approx(math.exp(found["eval_loss"]))
    assert found["exact_match_rows"] == 4
    assert found["exact_match"] == 0.0
    assert len(found["samples"]) == 2
    asked = {chat[0]["content"]: chat[1]["content"] for chat in settings.CHATS}
    for sample in found["samples"]:
        assert sample["reference"] == asked[sample["prompt"]]
        assert sample["match"] is False
    json.dumps(found)


def test_no_held_out_rows_no_figures(parts_for):
    plan, parts = parts_for({"data.eval_fraction": 0.0})
    assert evaluate(plan, parts) == {}


def test_with_a_trainer_the_figures_are_the_same(parts_for, tmp_path: Path):
    plan, parts = parts_for()
    alone = evaluate(plan, parts)
    trainer = build_trainer(plan, parts, tmp_path, [])
    beside = evaluate(plan, parts, trainer)
    assert beside.pop("eval_loss") == pytest.approx(alone.pop("eval_loss"), abs=1e-6)
    assert beside.pop("eval_perplexity") == pytest.approx(alone.pop("eval_perplexity"), rel=1e-6)
    assert beside == alone


@pytest.mark.parametrize("side", ["right", "left"])
def test_what_was_learnt_by_heart_matches(parts_for, pairs, tmp_path: Path, side):
    """A model trained on the very rows it is asked; also shows that training works at all."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    plan, parts = parts_for(
        {
            "data.train": str(rows),
            "data.evaluation": str(rows),
            "data.shape": "prompt_completion",
            "collator.kind": "completion",
            "tokenizer.padding_side": side,
            "trainer.max_steps": 60,
            "trainer.micro_batch": 8,
            "evaluation.exact_match_rows": 100,
        }
    )
    trainer = build_trainer(plan, parts, tmp_path / "out", [])
    trainer.train()
    found = evaluate(plan, parts, trainer)
    assert (found["exact_match"], found["exact_match_rows"]) == (1.0, 8)
    assert found["eval_loss"] < 0.2
    assert found["samples"][0]["answer"] == found["samples"][0]["reference"]


def test_the_last_answer_of_a_talk_is_asked_with_all_before_it(parts_for):
    talk = []
    for question, reply in (("First?", "One."), ("Second?", "Two."), ("Third?", "Three.")):
        talk.append({"role": "user", "content": question})
        talk.append({"role": "assistant", "content": reply})
    plan, parts = parts_for({"collator.max_length": 128}, rows=[{"messages": talk}] * 4)
    [sample] = evaluate(plan, parts)["samples"]
    assert sample["prompt"] == (
        "user: First?\nassistant: One.\nuser: Second?\nassistant: Two.\nuser: Third?"
    )
    assert sample["reference"] == "Three."


def test_answers_that_were_cut_are_not_asked(parts_for):
    rows = [
        {
            "messages": [
                {"role": "user", "content": "Say?"},
                {"role": "assistant", "content": "ja nein " * length},
            ]
        }
        for length in (1, 40, 1, 40, 1, 40, 1, 40)
    ]
    plan, parts = parts_for({"data.eval_fraction": 0.5, "collator.max_length": 40}, rows)
    assert parts.evaluation is not None
    whole = sum(length < 40 for length in parts.evaluation["length"])
    assert 0 < whole < 4
    found = evaluate(plan, parts)
    assert found["exact_match_rows"] == whole


def test_plain_text_has_no_question(parts_for):
    rows = [{"text": f"Number {n} comes before {n + 1}."} for n in range(12)]
    plan, parts = parts_for({"data.shape": "text", "collator.kind": "lm"}, rows)
    found = evaluate(plan, parts)
    assert "exact_match" not in found
    assert len(found["samples"]) == 2
    assert found["samples"][0]["prompt"].startswith("Number")


def test_turned_off(parts_for):
    plan, parts = parts_for({"evaluation.exact_match_rows": 0, "evaluation.samples": 0})
    assert set(evaluate(plan, parts)) == {"eval_loss", "eval_perplexity", "eval_tokens"}


def test_samples_follow_the_generation_section_and_exact_match_stays_greedy(parts_for):
    sampled = {"generation.sample": True, "generation.temperature": 2.0}
    (plan, parts), (other, same) = parts_for(), parts_for(sampled)
    greedy, drawn = evaluate(plan, parts), evaluate(other, same)
    assert drawn["exact_match"] == greedy["exact_match"]
    assert [s["prompt"] for s in drawn["samples"]] == [s["prompt"] for s in greedy["samples"]]
    assert [s["answer"] for s in drawn["samples"]] != [s["answer"] for s in greedy["samples"]]


def test_the_rows_asked_follow_the_seed(parts_for):
    def asked(seed: int) -> list[str]:
        plan, parts = parts_for({"seed": seed})
        return [sample["prompt"] for sample in evaluate(plan, parts)["samples"]]

    assert asked(1) == asked(1)
    assert {tuple(asked(seed)) for seed in range(4)} != {tuple(asked(1))}


def test_bfloat16_arithmetic_is_used_without_a_trainer_too(parts_for, tmp_path: Path, settings):
    lora = settings.LORA | {"modules_to_save": ["lm_head"]}
    plan, parts = parts_for(
        {"lora": lora, "precision.weights": "bfloat16", "precision.compute": "bfloat16"}
    )
    alone = evaluate(plan, parts)
    beside = evaluate(plan, parts, build_trainer(plan, parts, tmp_path, []))
    assert isinstance(parts, Parts)
    assert alone["eval_loss"] == pytest.approx(beside["eval_loss"], abs=1e-2)


def test_answers_at_every_evaluation_pick_the_best_model(parts_for, pairs, tmp_path: Path):
    """Exact match goes from nothing to all while the pairs are learnt by heart."""
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    plan, parts = parts_for(
        {
            "data.train": str(rows),
            "data.evaluation": str(rows),
            "data.shape": "prompt_completion",
            "collator.kind": "completion",
            "trainer.max_steps": 60,
            "trainer.micro_batch": 8,
            "evaluation.exact_match_rows": 100,
            "evaluation.answers": "always",
            "evaluation.answers_at_once": 3,
        }
    )
    plan.lowered["training_arguments"] |= {
        "eval_strategy": "steps",
        "eval_steps": 30,
        "save_strategy": "steps",
        "save_steps": 60,
        "load_best_model_at_end": True,
        "metric_for_best_model": "exact_match",
        "greater_is_better": True,
    }
    trainer = build_trainer(plan, parts, tmp_path / "out", [])
    trainer.answers = answers_during(plan, parts, trainer)
    trainer.train()
    told = {one["step"]: one["eval_exact_match"] for one in trainer.state.log_history
            if "eval_exact_match" in one}  # fmt: skip
    assert list(told) == [30, 60]
    assert told[60] == 1.0
    best = next(step for step, value in told.items() if value == 1.0)
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (1.0, best)
    # saves are rarer than evaluations, and the best one is there
    assert (tmp_path / "out" / f"checkpoint-{best}").is_dir()
    assert evaluate(plan, parts, trainer)["exact_match"] == 1.0


def test_answers_at_the_end_alone_are_not_asked_during_training(parts_for, tmp_path: Path):
    plan, parts = parts_for()
    assert answers_during(plan, parts, build_trainer(plan, parts, tmp_path, [])) is None
