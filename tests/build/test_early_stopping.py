"""When a run has stalled: worked out from the record of its evaluations alone."""

from __future__ import annotations

import math

import pytest

from llmforge.build.early_stopping import Patience, Stalled, patience_of


def history(*values: float, metric: str = "eval_loss", every: int = 10):
    """A Trainer's log: training losses between the evaluations."""
    found = []
    for number, value in enumerate(values, 1):
        found.append({"loss": 1.0, "step": number * every})
        found.append({metric: value, "eval_perplexity": 9.0, "step": number * every})
    return found


LOSS = Patience("eval_loss", maximize=False, evaluations=2, min_improvement=0.0)


def test_a_run_that_gets_better_goes_on():
    assert LOSS.judge(history(3.0, 2.0, 2.5, 1.9, 2.0)) is None
    assert LOSS.judge([]) is None


def test_it_ends_at_the_evaluation_at_which_patience_ends():
    found = LOSS.judge(history(3.0, 2.0, 2.5, 2.0, 1.0))
    assert found == Stalled("eval_loss", step=40, best=2.0, best_step=20, evaluations=2)
    assert str(found) == (
        "stopped early at step 40: `eval_loss` has not improved in 2 evaluations; it was 2 at "
        "step 20"
    )


def test_the_larger_is_the_better_one():
    accuracy = Patience("eval_token_accuracy", True, 1, 0.0)
    assert accuracy.judge(history(0.1, 0.2, 0.3, metric="eval_token_accuracy")) is None
    found = accuracy.judge(history(0.3, 0.2, metric="eval_token_accuracy"))
    assert found
    assert (found.step, found.best, found.best_step) == (20, 0.3, 10)


def test_too_small_an_improvement_is_none_but_small_ones_add_up():
    patience = Patience("eval_loss", False, 2, min_improvement=0.1)
    found = patience.judge(history(3.0, 2.95, 2.91))
    assert found
    assert (found.best, found.step) == (3.0, 30)
    assert patience.judge(history(3.0, 2.95, 2.89, 2.85, 2.78)) is None


def test_nan_improves_nothing():
    found = LOSS.judge(history(2.0, math.nan, math.nan))
    assert found
    assert (found.best, found.evaluations) == (2.0, 2)
    assert LOSS.judge(history(math.nan, 2.0, 1.0)) is None


def test_the_untrained_model_and_a_step_told_twice_do_not_count():
    log = [{"eval_loss": 1.0, "step": 0}, *history(3.0, 2.0)]
    assert LOSS.judge([*log, log[-1], log[-1]]) is None


def test_of_a_plan(make_plan):
    asked = {
        "evaluation.patience": 3,
        "evaluation.min_improvement": 0.5,
        "checkpoint.best": "exact_match",
        "checkpoint.best_direction": "maximize",
    }
    assert patience_of(make_plan(asked)) == Patience("eval_exact_match", True, 3, 0.5)
    assert patience_of(make_plan({**asked, "evaluation.patience": None})) is None


@pytest.mark.parametrize("cut", range(1, 6))
def test_the_count_survives_any_cut(cut):
    """A resumed run has the record up to its checkpoint, and adds what comes after."""
    whole = history(3.0, 2.0, 2.5, 2.0, 1.0)
    kept = [entry for entry in whole if entry["step"] <= cut * 10]
    rest = [entry for entry in whole if entry["step"] > cut * 10]
    assert LOSS.judge(kept + rest) == LOSS.judge(whole)
    assert (LOSS.judge(kept) is None) == (cut < 4)
