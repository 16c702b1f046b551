"""From where a run goes on, and whether it may: the newest whole checkpoint of this very run.

In: the plan of now, the run folder. Out: the checkpoint to go on from, and lines for a person:
what was passed over, and which settings differ from those the checkpoint was written with.

A run folder is named by the plan's fingerprint, so a plan with other data or numerics finds another
folder, and nothing to go on from. Settings can differ all the same: those that leave the
fingerprint alone (speed, bookkeeping), and any of them where a folder or a checkpoint was copied by
hand. Loading the state is the trainer's affair.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from llmforge.plan import Plan, PlanUnreadable
from llmforge.render import shown
from llmforge.run import checkpoints, sealing
from llmforge.run.checkpoints import Checkpoint
from llmforge.run.folder import RunFolder
from llmforge.schema import Effect

if TYPE_CHECKING:
    from llmforge.diff import Change

Say = Callable[[str], None]

_LAYOUT = ("kind", "stage", "offload", "offload_optimizer", "offload_parameters")
"""Settings of `deepspeed` and `fsdp` that decide how a checkpoint's state is laid out."""

_ARITHMETIC = ("hardware.device", "hardware.name")
"""Records of the machine; on another one sums are rounded otherwise."""


class Verdict(StrEnum):
    """What a changed setting means for a run that goes on."""

    SAFE = "safe"
    """The run ends with the weights it would have had anyway."""
    UNSAFE = "unsafe"
    """The same up to rounding: not bit for bit what an undisturbed run gives."""
    REFUSED = "refused"
    """Another run, or a state that cannot be read by this one."""


class ResumeRefused(RuntimeError):
    """The newest checkpoint was written by a plan that this one must not go on from."""

    def __init__(self, message: str, key: str | None, notes: Sequence[str]) -> None:
        super().__init__(message)
        self.key = key
        """The first setting that is to blame, if one is."""
        self.notes = tuple(notes)


@dataclass(frozen=True)
class Judged:
    """A changed setting and what it means."""

    change: Change
    verdict: Verdict

    def __str__(self) -> str:
        change = self.change
        return f"{change.key}: {shown(change.before, 40)} -> {shown(change.after, 40)}"


def choose(plan: Plan, run: RunFolder, say: Say) -> Checkpoint | None:
    """The checkpoint to go on from, every byte of it read; None to start at the beginning.

    What a killed process left half-written is removed, what is damaged is set aside under another
    name, with a word each. With `checkpoint.resume=false` all checkpoints are removed.

    Raises:
        ResumeRefused: the newest whole checkpoint is another run's.
    """
    wanted = plan.spec.checkpoint.resume
    checkpoints.tidy(run.checkpoint_folder)
    for found in checkpoints.scan(run.checkpoint_folder):
        if not wanted:
            # later steps of an abandoned attempt would be taken for this one's
            checkpoints.remove(found)
            continue
        fault = found.fault or checkpoints.verify(found)
        if fault:
            aside = checkpoints.set_aside(found)
            say(f"checkpoint at step {found.step} is passed over: {fault}; kept as {aside.name}")
            continue
        for judged in compare(plan, found):
            say(f"changed since the checkpoint, {judged.verdict}: {judged}")
        say(f"going on after step {found.step} ({found.path.name})")
        return found
    return None


def compare(plan: Plan, checkpoint: Checkpoint) -> list[Judged]:
    """Settings that differ from those of the checkpoint's plan, none of them refused.

    Raises:
        ResumeRefused: at least one is, or the plans differ in something that is no setting.
    """
    facts = sealing.facts(checkpoint.path)
    same = facts["fingerprint"] == plan.fingerprint
    try:
        before = Plan.load(checkpoint.path / checkpoints.PLAN)
    except PlanUnreadable as error:
        if same:
            return []  # of the same fingerprint: only bookkeeping can differ, and cannot be shown
        raise ResumeRefused(_words(checkpoint, facts["run_id"]), None, (str(error),)) from error
    found = judge(before, plan)
    refused = [judged for judged in found if judged.verdict is Verdict.REFUSED]
    if refused:
        notes = [f"{judged.verdict}: {judged}" for judged in refused]
        message = _words(checkpoint, facts["run_id"])
        if same:
            message = f"the state of {checkpoint.path.name} is laid out for other settings"
        raise ResumeRefused(message, refused[0].change.key, notes)
    if not same and before.stages["train"] != plan.stages["train"]:
        notes = ["no setting differs: it was written by another version, or when is evaluated"]
        raise ResumeRefused(_words(checkpoint, facts["run_id"]), None, notes)
    return found


def _words(checkpoint: Checkpoint, run_id: str) -> str:
    return f"{checkpoint.path.name} belongs to another run, {run_id}"


def judge(before: Plan, after: Plan) -> list[Judged]:
    """Every changed setting with its verdict, the gravest first."""
    from llmforge.diff import diff  # imported late: it reads the schema's sections

    found = [Judged(change, _verdict(change)) for change in diff(before, after).changes]
    order = list(Verdict)
    return sorted(found, key=lambda judged: -order.index(judged.verdict))


def _verdict(change: Change) -> Verdict:
    section, _, name = change.key.partition(".")
    if section in ("deepspeed", "fsdp") and name in _LAYOUT:
        return Verdict.REFUSED
    if change.key in _ARITHMETIC:
        return Verdict.UNSAFE
    if change.effect in (Effect.DATA, Effect.NUMERICS):
        return Verdict.REFUSED
    if change.effect is Effect.SPEED and section != "evaluation":
        return Verdict.UNSAFE
    return Verdict.SAFE
