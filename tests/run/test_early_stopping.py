"""A run that stops early says so, keeps its best model, and does the same when it was killed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status

STALLS = (
    "tracking=none",
    "checkpoint.best=eval_loss",
    "evaluation.every=2",
    "checkpoint.every=4",
    "checkpoint.keep=9",
    "evaluation.patience=2",
    "evaluation.min_improvement=100",
)
"""No improvement is large enough: the first evaluation is at step 2, so it ends at step 6."""


@pytest.fixture
def stalled(tiny: Callable[..., Plan]) -> Plan:
    return tiny(*STALLS)


def digests(run: RunFolder) -> dict[str, str]:
    found = json.loads(run.manifest.read_text())["files"]
    return {name: one["sha256"] for name, one in found.items() if name.endswith(".safetensors")}


def forget(run: RunFolder, after: int) -> None:
    """As if the process had been killed when the checkpoint of step `after` was the newest."""
    shutil.rmtree(run.model)
    for name in ("manifest.json", "result.json"):
        (run.path / name).unlink()
    for found in run.checkpoints():
        if found.step > after:
            shutil.rmtree(found.path)
    run.set_status(Status.INTERRUPTED, pid=None, reason="killed")


def test_it_stops_and_says_so_and_again_after_a_kill(stalled: Plan, capfd):
    outcome = stalled.run()
    assert outcome.exit_code == 0, outcome.diagnostic
    result = outcome.result
    assert result is not None
    ended = result["stopped_early"]
    assert (result["steps"], ended["step"], ended["evaluations"]) == (6, 6, 2)
    assert (ended["metric"], ended["best_step"]) == ("eval_loss", 2)
    # what is kept is what `checkpoint.best` says, however small the improvement
    assert result["best"]["step"] == 6
    assert result["best"]["value"] == pytest.approx(result["eval_loss"], abs=1e-6)
    assert "LF810" not in {warning["code"] for warning in result["warnings"]}
    run = RunFolder(Path(outcome.folder))
    # saves are rarer than evaluations, and each new best is there all the same
    assert [found.step for found in run.checkpoints()] == [6, 4, 2]
    assert run.record().reason == ended["words"]
    assert "stopped early at step 6: `eval_loss` has not improved" in capfd.readouterr().out
    whole = digests(run)

    forget(run, 4)
    again = stalled.run(quiet=True)
    assert again.exit_code == 0, again.diagnostic
    assert again.result is not None
    assert again.result["stopped_early"] == ended
    assert (again.result["steps"], again.result["best"]) == (6, result["best"])
    assert digests(run) == whole
