"""A trial's judge: what the study hears of a run, and what the run hears of its study."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from llmforge.run.folder import RunFolder
from llmforge.run.pruning import FILE, Assignment, Judge, forget, judge_of, within

optuna = pytest.importorskip("optuna")

NUMBERS = {
    "startup": 1,
    "warmup": 0,
    "interval": 1,
    "resource": 1,
    "reduction": 2,
    "patience": 2,
    "tolerance": 0.0,
    "evaluations": 8,
}


@pytest.fixture
def study(tmp_path: Path) -> Any:
    """A study with one trial that is over: 5, 4, 3, 2, ..."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    file = optuna.storages.journal.JournalFileBackend(str(tmp_path / "study.journal"))
    found = optuna.create_study(study_name="s", storage=optuna.storages.JournalStorage(file))
    first = found.ask()
    for evaluation in range(1, 5):
        first.report(6.0 - evaluation, evaluation)
    found.tell(first, 2.0)
    return found


def judge(study: Any, tmp_path: Path, kind: str = "median", **numbers: Any) -> Judge:
    """The judge of a fresh trial, as its worker makes it."""
    run = RunFolder(tmp_path / "run")
    run.path.mkdir(exist_ok=True)
    pruner = {"kind": kind, **NUMBERS, **numbers}
    Assignment("../study.journal", "s", study.ask().number, "eval_loss", pruner).write(run)
    found = judge_of(run)
    assert found is not None
    return found


def test_a_run_that_is_no_trial_has_no_judge(tmp_path):
    assert judge_of(RunFolder(tmp_path)) is None


def test_worse_than_the_median_ends_a_trial(study, tmp_path):
    one = judge(study, tmp_path)

    assert one.weigh(1, 4.9) is None
    assert one.weigh(2, 4.8) == "pruned by `median` at evaluation 2: `eval_loss` was 4.8"
    assert study.trials[1].intermediate_values == {1: 4.9, 2: 4.8}


def test_first_evaluations_may_be_spared(study, tmp_path):
    one = judge(study, tmp_path, warmup=2)

    assert one.weigh(1, 9.0) is None
    assert one.weigh(2, 9.0) is None
    assert one.weigh(3, 9.0) is not None


def test_nothing_is_pruned_before_enough_trials_are_over(study, tmp_path):
    assert judge(study, tmp_path, startup=2).weigh(1, 9.0) is None


def test_patience_ends_a_trial_by_itself(study, tmp_path):
    one = judge(study, tmp_path, "patience", patience=2)

    assert [one.weigh(n, v) is None for n, v in ((1, 1.0), (2, 1.1), (3, 1.2))] == [
        True, True, False,
    ]  # fmt: skip


def test_halving_lets_the_best_go_on(study, tmp_path):
    # one in two goes on from the first rung
    assert judge(study, tmp_path, "halving").weigh(1, 2.0) is None
    assert judge(study, tmp_path, "halving").weigh(1, 9.0) is not None
    assert judge(study, tmp_path, "halving").weigh(1, 0.1) is None


def test_hyperband_ends_what_is_worse_in_its_bracket(study, tmp_path):
    ended = []
    for number in range(8):
        one = judge(study, tmp_path, "hyperband")
        ended.append(any(one.weigh(at, float(number)) for at in range(1, 9)))

    assert ended[0] is False
    assert any(ended)


def test_not_a_number_is_as_bad_as_can_be(study, tmp_path):
    assert judge(study, tmp_path).weigh(1, float("nan")) is not None


def test_a_resumed_run_says_nothing_twice(study, tmp_path):
    judge(study, tmp_path).weigh(1, 4.0)
    again = judge_of(RunFolder(tmp_path / "run"))
    assert again is not None
    again.weigh(1, 3.0)

    assert study.trials[1].intermediate_values == {1: 4.0}


def test_a_study_that_does_not_answer_is_told_once_and_stops_nothing(study, tmp_path):
    one = judge(study, tmp_path)
    (tmp_path / "study.journal").write_text("this is no journal\nat all\n")

    assert one.weigh(1, 99.0) is None
    assert one.weigh(2, 99.0) is None
    (warning,) = RunFolder(tmp_path / "run").record().warnings
    assert warning["code"] == "LF729"
    assert warning["severity"] == "warning"


def test_a_run_by_name_is_wanted_whole(study, tmp_path):
    judge(study, tmp_path)
    forget(RunFolder(tmp_path / "run"))

    assert not (tmp_path / "run" / FILE).exists()
    forget(RunFolder(tmp_path / "run"))


def test_a_storage_that_hangs_does_not_hang_the_run():
    with pytest.raises(TimeoutError, match="no answer in 0 seconds"):
        within(0.05, lambda: time.sleep(1))
    assert within(30.0, lambda: 7) == 7
    with pytest.raises(LookupError):
        within(30.0, lambda: {}["x"])
