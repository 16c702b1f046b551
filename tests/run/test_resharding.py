"""A run goes on with another number of processes: what is taken over, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run import checkpoints, resume
from llmforge.run.folder import RunFolder
from llmforge.run.journal import Journal, history, seconds
from llmforge.run.resharding import check_reshard, offer, take_over
from llmforge.run.status import Status

Make = Callable[..., Plan]
TWO = ("tracking=none", "launch=torchrun", "launch.processes=2", "trainer.accumulation=1")
ONE = ("tracking=none",)


def saved(plan: Plan, *steps: int, best: int | None = None) -> RunFolder:
    """A run with checkpoints of these steps, and a journal that went two steps further."""
    run = RunFolder.create(plan)
    keeper = checkpoints.Keeper(run.checkpoint_folder, plan)
    for step in steps:
        keeper.begin(step)
        folder = keeper.staging(step) / keeper.final(step).name
        folder.mkdir()
        state = {"global_step": step, "best_model_checkpoint": best and str(keeper.final(best))}
        (folder / "trainer_state.json").write_text(json.dumps(state), encoding="utf-8")
        (folder / "rng_state_0.pth").write_bytes(b"numbers")
        (folder / "model.safetensors").write_bytes(f"weights of {step}".encode())
        keeper.finish(step, best)
    journal = Journal(run.journal)
    journal.attempt(1, 0)
    for step in range(1, steps[-1] + 3 if steps else 1):
        journal.append({"train_loss": 10.0 - step}, step)
    journal.close()
    return run


def refused(plan: Plan) -> Diagnostic:
    with pytest.raises(ConfigRefused) as caught:
        check_reshard(plan)
    [found] = caught.value.diagnostics
    assert (found.code, found.key) == ("LF468", "checkpoint.reshard")
    return found


@pytest.mark.parametrize(("before", "after"), [(TWO, ONE), (ONE, TWO)])
def test_checkpoint_and_curve_come_along(
    tiny: Make, before: tuple[str, ...], after: tuple[str, ...]
) -> None:
    source = saved(tiny(*before), 3, 6)
    plan = tiny(*after, f"checkpoint.reshard={source.run_id}")
    check_reshard(plan)
    run = RunFolder.create(plan)

    line = take_over(plan, run)

    numbers = [1 + (words is TWO) for words in (before, after)]
    assert line is not None
    assert f"step 6 of {source.run_id}" in line
    found = resume.choose(plan, run, print)
    assert found is not None
    assert found.step == 6
    assert (found.path / "model.safetensors").read_bytes() == b"weights of 6"
    assert not list(found.path.glob("rng_state*")), "they are those of other processes"
    Journal(run.journal).attempt(1, 6)  # as the worker begins
    curve = history(run.journal)
    assert curve["train_loss"] == {step: 10.0 - step for step in range(1, 7)}
    assert curve["processes"] == dict(zip((0, 6), numbers, strict=True))
    assert seconds(run.journal) == pytest.approx(seconds(source.journal), abs=1)
    assert run.read_json("reshard.json") == {
        "from": source.run_id,
        "step": 6,
        "processes": numbers,
    }
    assert [f.step for f in checkpoints.scan(source.checkpoint_folder)] == [6, 3], "untouched"
    assert take_over(plan, run) is None, "taken over before: nothing to do, and nothing to tell"


def test_the_best_checkpoint_comes_along(tiny: Make) -> None:
    source = saved(tiny(*TWO, "checkpoint=best"), 3, 6, best=3)
    plan = tiny(*ONE, "checkpoint=best", f"checkpoint.reshard={source.run_id}")
    run = RunFolder.create(plan)
    take_over(plan, run)

    newest, best = checkpoints.scan(run.checkpoint_folder)
    assert (newest.step, best.step, newest.fault, best.fault) == (6, 3, None, None)
    state = json.loads((newest.path / "trainer_state.json").read_text(encoding="utf-8"))
    assert Path(state["best_model_checkpoint"]) == best.path


def test_a_run_that_has_begun_needs_the_other_no_more(tiny: Make) -> None:
    source = saved(tiny(*TWO), 3)
    plan = tiny(*ONE, f"checkpoint.reshard={source.run_id}")
    run = saved(plan, 9)
    checkpoints.remove(checkpoints.scan(source.checkpoint_folder)[0])

    check_reshard(plan)
    assert take_over(plan, run) == (
        f"{run.run_id} goes on from its own checkpoint; {source.run_id} is left aside"
    )
    assert [found.step for found in checkpoints.scan(run.checkpoint_folder)] == [9]


def test_a_run_that_begins_anew_is_told_of_the_one_it_could_go_on_from(tiny: Make) -> None:
    saved(tiny(*TWO, "optimizer.lr=0.5"), 9)
    source = saved(tiny(*TWO), 3)
    plan = tiny(*ONE)
    RunFolder.create(plan)

    line = offer(plan)

    assert line == (
        f"run {source.run_id} differs in nothing but its 2 processes; "
        f"checkpoint.reshard={source.run_id} goes on after its step 3, this run begins at 0"
    )
    check_reshard(tiny(*ONE, f"checkpoint.reshard={source.run_id}"))


@pytest.mark.usefixtures("everything_installed")
def test_what_could_not_be_taken_over_is_not_offered(tiny: Make) -> None:
    saved(tiny(*TWO, "deepspeed=stage1"), 3)
    saved(tiny(*TWO))  # no checkpoint
    saved(tiny(*ONE, "optimizer.lr=0.5"), 3)
    saved(tiny(*ONE, "name=same"), 3)
    saved(tiny(*TWO, "name=done"), 3).set_status(Status.FINISHED)

    assert offer(tiny(*ONE, "launch=torchrun", "launch.processes=1", "deepspeed=stage1")) is None
    assert offer(tiny(*ONE)) is None


def test_no_such_run(tiny: Make) -> None:
    assert (
        "there is no run tiny-0000" in refused(tiny(*ONE, "checkpoint.reshard=tiny-0000")).message
    )


def test_a_checkpoint_that_would_be_removed(tiny: Make) -> None:
    source = saved(tiny(*TWO), 3)
    words = ("checkpoint.resume=false", f"checkpoint.reshard={source.run_id}")
    found = refused(tiny(*ONE, *words))

    assert found.hint == "checkpoint.resume=true"
    check_reshard(tiny(*ONE, *words, "checkpoint.resume=true"))
    assert offer(tiny(*ONE, "checkpoint.resume=false")) is None, "it is to begin at the beginning"


def test_no_checkpoint(tiny: Make) -> None:
    source = saved(tiny(*TWO))
    found = refused(tiny(*ONE, f"checkpoint.reshard={source.run_id}"))

    assert "no whole checkpoint" in found.message
    assert found.hint == "checkpoint.reshard=null"


def test_another_plan(tiny: Make) -> None:
    source = saved(tiny(*TWO, "optimizer.lr=0.5"), 3)
    found = refused(tiny(*ONE, "optimizer.lr=0.25", f"checkpoint.reshard={source.run_id}"))

    assert "more than the number of processes" in found.message
    assert found.notes == ("optimizer.lr: 0.5 -> 0.25",)


@pytest.mark.usefixtures("everything_installed")
def test_what_zero_has_cut(tiny: Make) -> None:
    source = saved(tiny(*TWO, "deepspeed=stage1"), 3)
    words = ("launch=torchrun", "launch.processes=1", "deepspeed=stage1")
    found = refused(tiny(*ONE, *words, f"checkpoint.reshard={source.run_id}"))

    assert "cut for 2 processes" in found.message
    assert found.hint == "checkpoint.reshard=null launch.processes=2"


def test_itself(tiny: Make) -> None:
    name = tiny(*ONE).run_id
    assert "this very run" in refused(tiny(*ONE, f"checkpoint.reshard={name}")).message


def test_a_run_that_is_worked_on(tiny: Make) -> None:
    source = saved(tiny(*TWO), 3)
    plan = tiny(*ONE, f"checkpoint.reshard={source.run_id}")
    with source.lock(), pytest.raises(ConfigRefused, match="LF468"):
        take_over(plan, RunFolder.create(plan))
