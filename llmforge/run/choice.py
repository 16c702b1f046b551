"""Which checkpoint of a run is meant: the best, the last, or that of a step.

In: a run folder, and `best`, `last` or a number of optimizer steps. Out: a checkpoint that is
sealed and whole, every byte of it read; or `NoCheckpoint`, which says what there is instead.

Which one a run goes on from is decided in `resume.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from llmforge.run import checkpoints, sealing
from llmforge.run.checkpoints import Checkpoint
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status

BEST, LAST = "best", "last"


class NoCheckpoint(LookupError):
    """The run has no such checkpoint, or it is broken."""

    def __init__(self, message: str, notes: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message)
        self.notes = tuple(notes)
        self.hint = hint
        """What to ask for instead: `checkpoint=last`."""


def choose_checkpoint(
    run: RunFolder, which: str | int, say: Callable[[str], None] | None = None
) -> Checkpoint:
    """The checkpoint that is meant.

    Args:
        run: the run.
        which: `best` by the metric of `checkpoint.best`; `last`, the newest that is whole; or the
            number of optimizer steps behind it.
        say: told of newer checkpoints that are broken when `last` is meant.

    Raises:
        NoCheckpoint: there is none, the run tracked no best, or the one meant is broken.
    """
    found = checkpoints.scan(run.checkpoint_folder)
    if str(which) == LAST:
        return _last(run, found, say)
    if str(which) == BEST:
        return _whole(run, found, _best_step(run, found))
    if not str(which).isdecimal():
        raise NoCheckpoint(
            f"`{which}` names no checkpoint: it is best, last or a number of steps",
            _there(found),
            "checkpoint=last" if found else None,
        )
    return _whole(run, found, int(which))


def best_step(folder: Path) -> int | None:
    """Step of the best checkpoint as the newest readable seal below `folder` names it."""
    for found in checkpoints.scan(folder):
        try:
            best = sealing.facts(found.path).get("best")
        except sealing.BrokenSeal:
            continue  # an older one was written when less was known, but is better than none
        return None if best is None else int(best)
    return None


def _best_step(run: RunFolder, found: list[Checkpoint]) -> int:
    best = best_step(run.checkpoint_folder)
    if best is None:
        raise NoCheckpoint(
            f"run {run.run_id} tracked no best checkpoint",
            (*_there(found), "a run keeps its best with `checkpoint=best` when it is trained"),
            "checkpoint=last" if found else None,
        )
    return best


def _last(run: RunFolder, found: list[Checkpoint], say: Callable[[str], None] | None) -> Checkpoint:
    for one in found:
        fault = one.fault or checkpoints.verify(one)
        if fault is None:
            return one
        if say is not None:
            say(f"checkpoint at step {one.step} is passed over: {fault}")
    raise _none(run, found)


def _whole(run: RunFolder, found: list[Checkpoint], step: int) -> Checkpoint:
    if not found:
        raise _none(run, found)
    meant = next((one for one in found if one.step == step), None)
    whole = [one for one in found if one.fault is None and one.step != step]
    nearest = min(whole, key=lambda one: abs(one.step - step), default=None)
    hint = f"checkpoint={nearest.step}" if nearest else None
    if meant is None:
        raise NoCheckpoint(
            f"run {run.run_id} has no checkpoint of step {step}", _there(found), hint
        )
    fault = meant.fault or checkpoints.verify(meant)
    if fault is not None:
        message = f"the checkpoint of step {step} of run {run.run_id} is broken: {fault}"
        raise NoCheckpoint(message, _there(found), hint)
    return meant


def _none(run: RunFolder, found: list[Checkpoint]) -> NoCheckpoint:
    broken = ", all of them broken" if found else ""
    notes = [*_there(found), f"the run is {run.status().value}"]
    finished = run.status() is Status.FINISHED and run.manifest.is_file()
    if finished:
        notes.append("its final model is there: name no checkpoint")
    return NoCheckpoint(f"run {run.run_id} has no whole checkpoint{broken}", notes)


def _there(found: Sequence[Checkpoint]) -> tuple[str, ...]:
    steps = ", ".join(f"{one.step}{' (broken)' if one.fault else ''}" for one in reversed(found))
    return (f"there are checkpoints of steps {steps}",) if found else ()
