"""A run that is stopped anywhere and resumed learns what an undisturbed one learns, bit for bit.

`train` is called in this process; a tracker that asks for a stop stands in for the signal.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run import journal
from llmforge.run.folder import RunFolder
from llmforge.run.signals import StopFlag, StopRequested
from llmforge.run.terminal import Screen
from llmforge.track.protocol import NullTracker

torch = pytest.importorskip("torch")

torch.set_num_threads(1)  # bit-equality needs one count, and more would not make this model faster

DROPOUT = ("lora=small", "lora.dropout=0.5", "lora.r=2")
"""Dropout draws from the global generator at every micro-batch: a wrong random state shows."""


class StopAt(NullTracker):
    """Asks for a stop when a number of this name is recorded at this step."""

    def __init__(self, stop: StopFlag, name: str, step: int) -> None:
        self.stop, self.name, self.step = stop, name, step

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        if self.name in values and step == self.step:
            self.stop.request("test")


def run_of(plan: Plan, parent: Path) -> RunFolder:
    """A run folder of the plan below `parent`."""
    run = RunFolder(parent / plan.run_id)
    run.path.mkdir(parents=True)
    plan.save(run.plan_file)
    return run


def train(plan: Plan, run: RunFolder, stop: StopFlag | None = None, tracker: Any = None) -> Any:
    from llmforge.stages.train import train as train_stage

    stop = StopFlag() if stop is None else stop
    return train_stage(plan, run, tracker or NullTracker(), stop)


def weights(run: RunFolder) -> dict[str, bytes]:
    return {
        path.relative_to(run.model).as_posix(): path.read_bytes()
        for path in sorted(run.model.rglob("*.safetensors"))
    }


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Plan], RunFolder]:
    """The run of a plan that nothing stopped; made once for each plan."""
    made: dict[str, RunFolder] = {}

    def make(plan: Plan) -> RunFolder:
        if plan.fingerprint not in made:
            run = run_of(plan, tmp_path_factory.mktemp("undisturbed"))
            train(plan, run)
            made[plan.fingerprint] = run
        return made[plan.fingerprint]

    return make


def stop_where(monkeypatch: pytest.MonkeyPatch, event: str, count: int) -> StopFlag:
    """A flag that is raised just before the `count`-th `event` of the StopCallback."""
    from llmforge.build.stopping import StopCallback

    stop = StopFlag()
    seen = 0
    original = getattr(StopCallback, event)

    def counting(self: Any, *args: Any, **kwargs: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == count:
            stop.request("test")
        return original(self, *args, **kwargs)

    monkeypatch.setattr(StopCallback, event, counting)
    return stop


@pytest.mark.parametrize(
    ("event", "count", "saved"),
    [
        pytest.param("on_substep_end", 1, None, id="in the first step: nothing to save"),
        pytest.param("on_substep_end", 6, 5, id="inside an accumulated step, at an epoch's start"),
        pytest.param("on_substep_end", 8, 7, id="inside an accumulated step"),
        pytest.param("on_step_end", 2, 2, id="at the end of a step"),
        pytest.param("on_step_end", 5, 5, id="at the end of an epoch"),
        pytest.param("on_step_end", 8, 8, id="at a step with an evaluation"),
        pytest.param("on_prediction_step", 4, 8, id="inside an evaluation"),
        pytest.param("on_step_end", 12, 12, id="at the last step"),
        pytest.param("on_prediction_step", 5, 12, id="inside the evaluation at the last step"),
        pytest.param("on_prediction_step", 7, 12, id="inside the evaluation of the final model"),
    ],
)
def test_stop_and_resume(
    tiny: Callable[..., Plan],
    undisturbed: Callable[[Plan], RunFolder],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    event: str,
    count: int,
    saved: int | None,
) -> None:
    plan = tiny("tracking=none", "evaluation.at_start=false", "evaluation.micro_batch=4", *DROPOUT)
    whole = undisturbed(plan)

    stop = stop_where(monkeypatch, event, count)
    run = run_of(plan, tmp_path / "stopped")
    with pytest.raises(StopRequested):
        train(plan, run, stop)
    monkeypatch.undo()
    assert [c.step for c in run.checkpoints()][:1] == ([saved] if saved else [])
    assert not run.manifest.exists()
    assert run.result() is None

    result = train(plan, run)
    assert weights(run) == weights(whole)
    assert result["steps"] == 12
    assert result["eval_loss"] == whole.result()["eval_loss"]
    curve, expected = (journal.history(r.journal)["eval_loss"] for r in (run, whole))
    assert curve == expected  # no evaluation is lost, none counted twice


def test_how_often_a_run_is_measured_does_not_change_what_it_learns(
    tiny: Callable[..., Plan], tmp_path: Path
) -> None:
    runs = []
    for every, start in (("1", "true"), ("null", "false")):
        plan = tiny(
            *("tracking=none", f"evaluation.every={every}", f"evaluation.at_start={start}"),
            *(f"paths.runs={tmp_path}/{start}", *DROPOUT),
        )
        run = run_of(plan, tmp_path / start)
        train(plan, run)
        runs.append(run)
    assert weights(runs[0]) == weights(runs[1])


def test_without_resume_a_run_starts_afresh(tiny: Callable[..., Plan], tmp_path: Path) -> None:
    plan = tiny("tracking=none", "checkpoint.resume=false")
    run = run_of(plan, tmp_path)
    stop = StopFlag()
    with pytest.raises(StopRequested):
        train(plan, run, stop, StopAt(stop, "train_loss", 6))
    assert run.checkpoints()
    train(plan, run)
    marks = [row.step for row, _ in journal.read(run.journal) if row.mark]
    assert marks == [0, 0]
    assert [c.step for c in run.checkpoints()] == [12, 8]


def test_a_broken_checkpoint_is_passed_over_with_a_word(plan: Plan, tmp_path: Path) -> None:
    run = run_of(plan, tmp_path)
    stop = StopFlag()
    with pytest.raises(StopRequested):
        train(plan, run, stop, StopAt(stop, "train_loss", 6))
    newest = run.checkpoints()[0]
    (newest.path / "optimizer.pt").write_bytes(b"PK")
    told = io.StringIO()

    from llmforge.stages.train import train as train_stage

    train_stage(plan, run, NullTracker(), StopFlag(), Screen(log=told))
    assert f"checkpoint at step {newest.step} is passed over: optimizer.pt" in told.getvalue()
    assert "going on after step 4" in told.getvalue()
    assert run.result()["steps"] == 12


def test_the_untrained_model_is_measured_once(plan: Plan, tmp_path: Path) -> None:
    run = run_of(plan, tmp_path)
    stop = StopFlag()
    with pytest.raises(StopRequested):
        train(plan, run, stop, StopAt(stop, "train_loss", 2))
    before = [row for row, _ in journal.read(run.journal) if "baseline_eval_loss" in row.values]
    result = train(plan, run)
    after = [row for row, _ in journal.read(run.journal) if "baseline_eval_loss" in row.values]
    assert len(before) == len(after) == 1
    assert result["baseline"]["eval_loss"] == before[0].values["baseline_eval_loss"]
