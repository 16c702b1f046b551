"""The metric that counts, early stopping and answers: what rules say beyond their gallery pages."""

from __future__ import annotations

import pytest

from llmforge.compiler.memory.fit import sheet_of
from llmforge.compiler.rules.evaluation import (
    best_without_evaluation,
    early_stopping_cannot_work,
    first_evaluation_after_the_end,
    reported,
    wrong_direction,
)

BEST = {"checkpoint.best": "eval_loss", "evaluation.every": 10, "checkpoint.every": 10}
RUN = {"trainer.epochs": None, "trainer.max_steps": 100}


def test_what_is_reported_follows_from_metrics_and_answers(solved):
    assert reported(solved()) == {"eval_loss": "minimize", "eval_perplexity": "minimize"}
    more = {
        "metrics": {"token_accuracy": {"kind": "token_accuracy"}},
        "evaluation.answers": "always",
    }
    assert reported(solved(more)) == {
        "eval_loss": "minimize",
        "eval_perplexity": "minimize",
        "eval_token_accuracy": "maximize",
        "exact_match": "maximize",
    }


@pytest.mark.parametrize(("patience", "told"), [(9, 0), (10, 1), (50, 1)])
def test_patience_against_the_evaluations_of_the_run(solved, patience, told):
    found = list(early_stopping_cannot_work(solved(BEST, RUN, {"evaluation.patience": patience})))
    assert len(found) == told


def test_a_delay_leaves_out_evaluations(solved):
    late = solved(BEST, RUN, {"evaluation.patience": 4, "evaluation.delay": "65%"})
    assert late.spec.evaluation.delay == 65
    [found] = early_stopping_cannot_work(late)
    assert "a run that has 4" in found.message  # of steps 70, 80, 90, 100
    assert list(first_evaluation_after_the_end(late)) == []


def test_fractions_of_an_epoch_are_steps(solved):
    context = solved({"evaluation.every": "0.5 epoch", "checkpoint.every": "2 epochs"})
    epoch = context.facts.steps_per_epoch
    spec = context.spec
    assert (spec.evaluation.every, spec.checkpoint.every) == (epoch // 2, 2 * epoch)
    assert context.facts.asked["evaluation.every"] == "0.5 epoch"


def test_saves_may_be_rarer_than_evaluations(solved):
    assert list(best_without_evaluation(solved(BEST, RUN, {"checkpoint.every": 50}))) == []
    assert [d.code for d in best_without_evaluation(solved(BEST, RUN, {"checkpoint.every": 15}))]


def test_only_known_directions_are_contradicted(solved):
    assert list(wrong_direction(solved(BEST, RUN))) == []
    assert list(wrong_direction(solved(BEST, RUN, {"checkpoint.best_direction": "maximize"})))


def test_answers_at_once_are_as_many_as_fit(solved):
    small = ("model=llama3_8b", "lora=small")
    many = solved(*small, "hardware=h200").spec.evaluation.answers_at_once
    tight = solved(*small, "hardware=rtx4090", "quantization=4bit")
    assert many == 64
    assert 1 <= tight.spec.evaluation.answers_at_once < many
    assert sheet_of(tight).fits
    more = {"evaluation.answers_at_once": 2 * tight.spec.evaluation.answers_at_once}
    assert not sheet_of(tight, more).fits


def test_a_metric_on_logits_makes_the_evaluation_batch_smaller(solved):
    base = ("model=llama3_8b", "lora=small", "hardware=rtx4090")
    long = {"collator.max_length": 4096, "trainer.micro_batch": 2, "trainer.accumulation": 1,
            "trainer.global_batch": 2}  # fmt: skip
    plain = solved(*base, long)
    asked = solved(*base, long, {"metrics": {"token_accuracy": {"kind": "token_accuracy"}}})
    assert asked.spec.evaluation.micro_batch < plain.spec.evaluation.micro_batch == 4
    assert sheet_of(asked).totals["evaluation"] > 0
