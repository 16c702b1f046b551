"""One trial, wherever a launcher has put it: in this process, another one, on another machine.

In: a run folder with a plan in it. Out: what came of it, small enough to be sent back. The trial is
a run like any other (`run/launch.py`): a worker process of its own, so that whatever ends it ends
nothing else. A launcher may have queued trials long before; one that starts after its sweep was
stopped does nothing, and one that an earlier driver's job still works on is waited for.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.launch import Outcome, run_plan
from llmforge.run.status import Status
from llmforge.sweep import stopping
from llmforge.sweep.sharing import share

HELD = "LF808"
"""The run folder is held by another process."""

OF_THE_POINT = ("LF802", "LF803")
"""Failures that come of what was chosen, and would come again: not finite, out of memory."""

_PAUSE = 1.0
"""Seconds between two looks at a folder that is held."""


@dataclass(frozen=True)
class Trial:
    """What came of one point."""

    run_id: str
    status: str
    """`FINISHED`, `FAILED`, `PRUNED`, `INTERRUPTED`; `CREATED` when it was not started."""
    figures: dict[str, Any]
    """Numbers of its result."""
    code: str | None = None
    """Why it failed."""
    reason: str | None = None
    reused: bool = False
    """It was finished before."""

    @property
    def is_finished(self) -> bool:
        """Has it a result?"""
        return self.status == Status.FINISHED.value

    @property
    def is_pruned(self) -> bool:
        """Did the sweep end it before its last step?"""
        return self.status == Status.PRUNED.value

    @property
    def is_over(self) -> bool:
        """Is nothing left to run? What failed may be tried again by the same command."""
        return self.is_finished or self.is_pruned

    @property
    def is_failed(self) -> bool:
        """Did it end by itself, without a result?"""
        return self.status == Status.FAILED.value

    @property
    def is_worth_another(self) -> bool:
        """Did it fail by something else than its point: killed, the disk full, a fault in code?"""
        return self.is_failed and self.code not in OF_THE_POINT


def run_trial(folder: str | Path, place: int = 0, places: int = 1, quiet: bool = True) -> Trial:
    """Run the plan of a trial's folder, or answer from it.

    A driver that was killed may have left a job behind that works on the folder: until it is done,
    or saved and ended, which is seconds where the job went down with its driver, it is waited for.

    Args:
        folder: of the run, with `plan.json` in it.
        place: of the trial among those that run on this machine at once, from 0.
        places: how many those are.
        quiet: nothing on the terminal.
    """
    run = RunFolder.open(folder)
    sweep = run.path.parent
    while True:
        if stopping.stopped(sweep) is not None or run.status() is Status.PRUNED:
            return trial_of(run.path)
        plan = Plan.load(run.plan_file)
        with share(plan, place, places):
            outcome = run_plan(plan, quiet=quiet, asked=partial(stopping.wish, sweep))
        if outcome.diagnostic is None or outcome.diagnostic.code != HELD:
            return _told(run.path, outcome)
        time.sleep(_PAUSE)


def trial_of(folder: str | Path) -> Trial:
    """What a run folder says of its trial."""
    run = RunFolder(folder)
    record = run.record()
    return Trial(
        run.run_id, record.status.value, _numbers(run.result()), record.code, record.reason
    )


def _told(folder: Path, outcome: Outcome) -> Trial:
    found = outcome.diagnostic
    return Trial(
        folder.name,
        outcome.status.value,
        _numbers(outcome.result),
        found.code if found else None,
        found.message if found else None,
        outcome.reused,
    )


def _numbers(result: dict[str, Any] | None) -> dict[str, Any]:
    return {
        key: value
        for key, value in (result or {}).items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
