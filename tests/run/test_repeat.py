"""A recorded run, once more: the same plan in a folder of its own, and what came of it."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.cli import main
from llmforge.diagnostics import ConfigRefused
from llmforge.plan import Plan
from llmforge.refs.records import again
from llmforge.run import repeat
from llmforge.run.folder import RunFolder
from llmforge.run.journal import Journal
from llmforge.run.status import Status


def ended(plan: Plan, losses: list[float], status: Status = Status.FINISHED) -> RunFolder:
    run = RunFolder.create(plan)
    journal = Journal(run.journal)
    for step, loss in enumerate(losses, start=1):
        journal.append({"train_loss": loss, "tokens_per_second": 100.0 * step}, step)
    journal.close()
    run.write_json("result.json", {"steps": len(losses)})
    run.set_status(status)
    return run


def test_a_finished_run_is_run_in_a_folder_of_its_own(plan: Plan) -> None:
    run = ended(plan, [3.0])

    found = again(plan.run_id)

    assert found.before is not None
    assert found.before.path == run.path
    assert found.plan.fingerprint == plan.fingerprint
    assert found.plan.run_folder == run.path / "again-1" / plan.run_id
    assert found.plan.origins.chain("paths.runs")[-1].where == "train --run"
    assert plan.settings["paths"]["runs"] != found.plan.settings["paths"]["runs"]
    # one that was finished makes room for the next, one that was not goes on
    ended(found.plan, [3.0], Status.INTERRUPTED)
    assert again(plan.run_id).plan.run_folder == found.plan.run_folder
    ended(found.plan, [3.0])
    assert again(plan.run_id).plan.run_folder == run.path / "again-2" / plan.run_id


def test_any_other_run_goes_on_where_it_stopped(plan: Plan) -> None:
    ended(plan, [3.0], Status.INTERRUPTED)

    found = again(plan.run_id)

    assert found.before is None
    assert found.plan.run_folder == plan.run_folder


def test_metric_by_metric() -> None:
    before = {"a": {1: 1.0, 2: 2.0}, "nan": {1: math.nan}, "tokens_per_second": {1: 5.0}}
    after = {"a": {1: 1.0, 2: 2.5, 3: 3.0}, "nan": {1: math.nan}, "b": {1: 1.0}}

    a, nan, b = repeat.metrics(before, after)

    assert a.told == (
        "differs by at most 0.5, at step 2 of 2 steps; 1 steps in one of the runs only"
    )
    assert nan.told == "equal bit for bit at 1 step"
    assert b.told == "in one of the runs only"
    (worst,) = repeat.metrics({"a": {1: 1.0}}, {"a": {1: math.nan}})
    assert (worst.equal, worst.largest) == (False, math.inf)


def test_the_comparison(plan: Plan, tiny: Callable[..., Plan]) -> None:
    run = ended(plan, [3.0, 2.0])
    same = ended(repeat.fresh(plan, run.path / "again-1"), [3.0, 2.0])
    other = ended(repeat.fresh(plan, run.path / "again-2"), [3.0, 2.0 + 1e-9])

    found = repeat.compare(run, same)
    assert found.same
    assert found.findings() == []
    assert "train_loss   equal bit for bit at 2 steps" in found.text()
    assert "tokens_per_second" not in found.text()

    found = repeat.compare(run, other)
    (warning,) = found.findings()
    assert (warning.code, warning.is_error) == ("LF744", False)
    assert warning.notes == ("train_loss: differs by at most 1e-09, at step 2 of 2 steps",)
    kept = json.loads((other.path / "comparison.json").read_text(encoding="utf-8"))
    assert (kept["same"], kept["metrics"]["train_loss"]["equal"]) == (False, False)


def test_fingerprint_of_today(work: Path) -> None:
    from llmforge import compile as compile_plan

    plan = compile_plan(["hardware=cpu", "tracking=none"])
    run = ended(plan, [3.0])
    again_plan = repeat.fresh(plan, run.path / "again-1")

    found = repeat.compare(run, ended(again_plan, [3.0]))
    assert "fingerprint  equal: the recorded overrides compile to it today" in found.text()

    plan.overrides.append("optimizer.lr=0.5")
    found = repeat.compare(run, ended(again_plan, [3.0]))
    assert "fingerprint  differs: the recorded overrides compile to" in found.text()

    plan.overrides.append("optimizer.no_such_key=1")
    found = repeat.compare(run, ended(again_plan, [3.0]))
    assert "are refused today" in found.text()


def test_a_run_that_nobody_knows(plan: Plan) -> None:
    with pytest.raises(ConfigRefused) as caught:
        again("nothing")

    assert caught.value.diagnostics[0].code == "LF809"


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_trained_again_bit_for_bit(
    tiny: Callable[..., Plan], work: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From its folder, and from MLflow when the folder is gone."""
    plan = tiny(f"tracking.uri=sqlite:///{work}/mlflow.db", "trainer.max_steps=4")
    assert plan.run(quiet=True).exit_code == 0
    run = RunFolder(plan.run_folder)
    record = run.read_json("mlflow.json")["run_id"]

    assert main(["train", "--run", plan.run_id]) == 0
    told = capsys.readouterr().out
    assert "train_loss" in told
    assert "differs by" not in told

    shutil.rmtree(run.path)
    assert main(["train", "--run", record]) == 0
    told = capsys.readouterr().out
    assert "eval_loss" in told
    assert "differs by" not in told
    assert RunFolder(work / "runs" / plan.run_id).status() is Status.FINISHED
