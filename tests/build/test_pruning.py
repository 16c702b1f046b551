"""Ending a training where a judge says so."""

from __future__ import annotations

import math

from transformers import TrainerControl, TrainerState, TrainingArguments

from llmforge.build.pruning import PruningCallback, evaluations


class Judge:
    """Ends a run at an evaluation."""

    objective = "exact_match"

    def __init__(self, at: int) -> None:
        self.at = at
        self.heard: list[tuple[int, float]] = []

    def weigh(self, evaluation: int, value: float) -> str | None:
        self.heard.append((evaluation, value))
        return f"ended at {evaluation}" if evaluation >= self.at else None


def trained(judge: Judge, tmp_path, main: bool = True, steps: int = 40) -> PruningCallback:
    """A training of `steps` steps with an evaluation every tenth, as the Trainer calls back."""
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    callback = PruningCallback(judge, main)
    state, control = TrainerState(max_steps=steps), TrainerControl()
    callback.on_train_begin(arguments, state, control)
    callback.on_evaluate(arguments, state, control)  # of the untrained model
    for step in range(10, steps + 1, 10):
        state.global_step = step
        state.log_history.append({"step": step, "loss": 3.0})
        state.log_history.append({"step": step, "eval_exact_match": step / 100})
        callback.on_evaluate(arguments, state, control)
        assert control.should_save == control.should_training_stop
        if control.should_training_stop:
            break
    return callback


def test_the_run_ends_saved_where_the_judge_says(tmp_path):
    judge = Judge(at=2)

    assert trained(judge, tmp_path).found == "ended at 2"
    assert judge.heard == [(1, 0.1), (2, 0.2)]


def test_the_last_evaluation_ends_nothing_but_is_told(tmp_path):
    judge = Judge(at=4)

    assert trained(judge, tmp_path).found is None
    assert judge.heard[-1] == (4, 0.4)


def test_other_ranks_do_not_ask(tmp_path):
    judge = Judge(at=1)

    assert trained(judge, tmp_path, main=False).found is None
    assert judge.heard == []


def test_evaluations_are_counted_from_the_record_a_step_once():
    history = [
        {"step": 0, "eval_loss": 9.0},
        {"step": 5, "loss": 1.0},
        {"step": 10, "eval_loss": 4.0},
        {"step": 10, "eval_loss": 4.5},
        {"step": 20, "eval_loss": None},
    ]
    found = evaluations(history, "eval_loss")
    assert found[0] == (10, 4.0)
    assert found[1][0] == 20
    assert math.isnan(found[1][1])
