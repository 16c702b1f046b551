"""Weak trials end early, in workers of their own, and are counted as what they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmforge.compiler.passes import compile_plan
from llmforge.run.folder import RunFolder
from llmforge.run.launch import run_plan
from llmforge.run.pruning import FILE, Assignment
from llmforge.run.status import Status
from llmforge.sweep.trial import run_trial

optuna = pytest.importorskip("optuna")

TINY = (
    "name=tiny data.max_cut_tokens=null model.layers=1 model.hidden=16 model.intermediate=32 "
    "model.heads=2 model.kv_heads=2 model.context=128 tokenizer.vocabulary=300 data.rows=200 "
    "data.max_train_rows=40 data.max_eval_rows=8 trainer.epochs=null trainer.max_steps=12 "
    "trainer.log_every=2 trainer.global_batch=8 trainer.micro_batch=4 checkpoint.every=null "
    "evaluation.every=3 evaluation.at_start=false evaluation.exact_match_rows=0 "
    "evaluation.samples=0 hardware=cpu launch.threads=1 tracking=none"
)
PRUNED = "sweep.pruner=median sweep.pruning.startup=1"


def trials_of(folder: Path) -> list[RunFolder]:
    """Run folders of a sweep in the order of its points."""
    lines = (folder / "points.jsonl").read_text(encoding="utf-8").splitlines()
    return [RunFolder(folder / point["run_id"]) for point in map(json.loads, lines)]


@pytest.mark.slow
def test_a_grid_is_pruned_and_the_pruned_trial_kept(llmforge, work):
    # the second learns nothing, so its loss stays above the first one's
    line = f"sweep {TINY} {PRUNED} sweep.name=s optimizer.lr=1e-2,1e-9"
    ran = llmforge(line)

    assert ran.code == 0, ran.err
    good, weak = trials_of(work / "multirun" / "s")
    assert good.status() is Status.FINISHED
    record = weak.record()
    assert record.status is Status.PRUNED
    assert record.reason is not None
    assert record.reason.startswith("pruned by `median` at evaluation")
    newest = weak.checkpoints()[0]
    assert 0 < newest.step < 12
    assert record.reason.endswith(f"state saved at step {newest.step}")
    assert weak.result() is None
    assert f"{weak.run_id}  PRUNED  pruned by `median`" in ran.out

    # the study knows both, whoever asks
    file = optuna.storages.journal.JournalFileBackend(str(work / "multirun/s/study.journal"))
    (study,) = optuna.get_all_study_summaries(optuna.storages.JournalStorage(file))
    told = optuna.load_study(
        study_name=study.study_name, storage=optuna.storages.JournalStorage(file)
    ).trials
    assert [trial.state.name for trial in told] == ["COMPLETE", "PRUNED"]
    assert [trial.user_attrs["run_id"] for trial in told] == [good.run_id, weak.run_id]
    assert list(told[0].intermediate_values) == [1, 2, 3, 4]

    # the same command starts neither again
    again = llmforge(line)
    assert again.code == 0
    assert "1 finished before · 1 pruned before · 0 to run" in again.out
    assert run_trial(weak.path).is_pruned
    assert weak.record().attempts == 1

    # but by name the run is wanted whole
    outcome = run_plan(weak.plan(), quiet=True)
    assert outcome.status is Status.FINISHED
    assert not (weak.path / FILE).exists()
    assert outcome.result is not None
    assert outcome.result["steps"] == 12


@pytest.mark.slow
def test_a_search_of_ten_trials_with_pruning(llmforge, work):
    line = (
        f"sweep {TINY} {PRUNED} sweep=search sweep.name=s sweep.trials=10 sweep.startup=4 "
        "'optimizer.lr=tag(log,interval(1e-7,3e-2))' lora=none,small"
    )
    ran = llmforge(line)

    assert ran.code == 0, ran.err
    states = [run.status() for run in trials_of(work / "multirun" / "s")]
    assert len(states) == 10
    assert states.count(Status.PRUNED) >= 1
    assert states.count(Status.PRUNED) + states.count(Status.FINISHED) == 10
    assert "0 to run" in llmforge(f"{line} --dry-run").out


@pytest.mark.slow
def test_all_ranks_end_a_trial_together(llmforge, work):
    line = (
        f"sweep {TINY} {PRUNED} sweep.name=s optimizer.lr=1e-2,1e-9 launch=torchrun "
        "launch.processes=2 trainer.micro_batch=2"
    )
    assert llmforge(line).code == 0

    assert [run.status() for run in trials_of(work / "multirun" / "s")] == [
        Status.FINISHED,
        Status.PRUNED,
    ]


def test_a_study_that_is_gone_stops_no_training(work):
    plan = compile_plan([*TINY.split(), "trainer.max_steps=6"])
    run = RunFolder.create(plan)
    Assignment("../gone/study.journal", "s", 0, "eval_loss", {"kind": "median"}).write(run)

    assert run_plan(plan, quiet=True).status is Status.FINISHED
    assert [warning["code"] for warning in run.record().warnings].count("LF729") == 1
