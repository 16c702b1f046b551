"""Going on with another number of processes: what `checkpoint.reshard` names, taken over.

In: a plan, and a run of the same plan on another number of processes. Out: its newest checkpoint in
the new run's folder, sealed under the new plan, and its journal before the new run's own, with the
metric `processes` where the number changes; `reshard.json` tells where from. Or `ConfigRefused`
(LF468), before anything is started. A run that names none, and could, is told so (`offer`).

What each process holds alike (weights, optimizer and schedule of plain data parallelism) is taken
as it is; what FSDP2 has in pieces is dealt out anew by whoever loads it. The rows of a step follow
from seed and global batch alone (`build/filling.py`), so none is lost or seen twice. The random
numbers of each process begin anew, from the seed: dropout masks are others than they would have
been. ZeRO's state is cut for the number that wrote it, and refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan, PlanUnreadable
from llmforge.run import checkpoints, journal, resume, sealing
from llmforge.run.checkpoints import Checkpoint, Keeper
from llmforge.run.folder import RunBusy, RunFolder
from llmforge.run.ledger import list_runs
from llmforge.run.status import Status

RECORD = "reshard.json"
_KEY = "checkpoint.reshard"
_OF_THE_NUMBER = ("launch.processes", "trainer.micro_batch", "trainer.accumulation")
"""Settings that may differ: how many share a step, and how much of it each takes."""
_STATE = "trainer_state.json"
_LOOKED_AT = 50
"""Runs that are compared with one that begins, those touched last: a plan is read for each."""


def check_reshard(plan: Plan) -> None:
    """Refuse a plan that cannot go on from the run it names.

    A plan whose own run has a checkpoint needs the other run no more.

    Raises:
        ConfigRefused: LF468.
    """
    if plan.settings["checkpoint"]["reshard"] is None or _own(plan):
        return
    found = list(_faults(plan))
    if found:
        raise ConfigRefused(found)


def offer(plan: Plan) -> str | None:
    """A line for a person whose run begins at the beginning, and need not: there is a run that
    differs in nothing but the number of processes, and has not finished. None where there is none.
    """
    if not plan.settings["checkpoint"]["resume"]:
        return None
    known = [run for run in list_runs(plan.run_folder.parent) if run.path != plan.run_folder]
    found = [one for one in map(_step_of, known[:_LOOKED_AT]) if one is not None]
    for run, checkpoint in sorted(found, key=lambda one: -one[1].step):
        try:
            before = Plan.load(checkpoint.path / checkpoints.PLAN)
        except PlanUnreadable:
            continue  # of another version, so no run of this plan
        if before.stages["prepare"] != plan.stages["prepare"] or _hindrances(plan, run, before):
            continue
        many, name = _processes(before), run.path.name
        if many == _processes(plan):
            continue  # the same run by another name
        return (
            f"run {name} differs in nothing but its {many} process{'es' if many > 1 else ''}; "
            f"{_KEY}={name} goes on after its step {checkpoint.step}, this run begins at 0"
        )
    return None


def _step_of(run: RunFolder) -> tuple[RunFolder, Checkpoint] | None:
    newest = None if run.status() is Status.FINISHED else _newest(run)
    return None if newest is None else (run, newest)


def take_over(plan: Plan, run: RunFolder) -> str | None:
    """Bring the other run's newest checkpoint and journal here, if this run has none of its own.

    The checkpoint comes last, and whole or not at all: killed before, all is done again.

    Returns:
        A line for a person; None where there was nothing to do.

    Raises:
        ConfigRefused: LF468.
    """
    if plan.settings["checkpoint"]["reshard"] is None:
        return None
    source = _source(plan)
    if _own(plan):
        taken = (run.read_json(RECORD) or {}).get("from") == source.path.name
        aside = f"{run.path.name} goes on from its own checkpoint; {source.path.name} is left aside"
        return None if taken else aside
    try:
        with source.lock():
            check_reshard(plan)
            return _take(plan, run, source)
    except RunBusy:
        message = f"run {source.path.name} is being worked on"
        raise ConfigRefused([_finding(plan, message, "llmforge runs")]) from None


def _take(plan: Plan, run: RunFolder, source: RunFolder) -> str:
    newest = _newest(source)
    assert newest is not None  # noqa: S101 - `check_reshard` found it
    facts = sealing.facts(newest.path)
    before = _processes(Plan.load(newest.path / checkpoints.PLAN))
    after = _processes(plan)
    told = {"from": source.path.name, "step": newest.step, "processes": [before, after]}
    known = journal.history(source.journal).get("processes")
    # in the order of steps: a tracker takes none that lies before the last it got
    rows = [] if known else [journal.Row(0, 0, {"processes": before})]
    rows += [journal.Row(0, newest.step, {"processes": after})]
    journal.take_over(run.journal, source.journal, rows)
    run.write_json(RECORD, told)
    best, keeper = facts.get("best"), Keeper(run.checkpoint_folder, plan)
    steps = [best] if best not in (None, newest.step) else []
    for step in (*steps, newest.step):
        _bring(keeper, source.checkpoint_folder / f"{checkpoints.PREFIX}{step}", step, best)
    return (
        f"going on from step {newest.step} of {source.path.name} with {after} "
        f"process{'es' if after > 1 else ''}, where it had {before}"
    )


def _bring(keeper: Keeper, origin: Path, step: int, best: int | None) -> None:
    """One checkpoint, under the plan of the keeper."""
    keeper.begin(step)
    staged = keeper.staging(step) / keeper.final(step).name
    left = shutil.ignore_patterns(sealing.MANIFEST, checkpoints.PLAN, "rng_state*.pth")
    shutil.copytree(origin, staged, ignore=left)
    file = staged / _STATE
    state: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if best is not None and state.get("best_model_checkpoint"):
        state["best_model_checkpoint"] = str(keeper.final(best))
        file.write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")
    keeper.finish(step, best)


def _faults(plan: Plan) -> Iterator[Diagnostic]:
    source = _source(plan)
    name = source.path.name
    if name == plan.run_id:
        message = f"{name} is this very run, which goes on from its checkpoints anyway"
        yield _finding(plan, message, f"{_KEY}=null")
        return
    if not plan.settings["checkpoint"]["resume"]:
        message = "checkpoint.resume=false would remove what is taken over"
        yield _finding(plan, message, "checkpoint.resume=true")
    if not source.plan_file.is_file():
        yield _finding(plan, f"there is no run {name} in {source.path.parent}", "llmforge runs")
        return
    newest = _newest(source)
    if newest is None:
        yield _finding(plan, f"run {name} has no whole checkpoint", f"{_KEY}=null")
        return
    try:
        before = Plan.load(newest.path / checkpoints.PLAN)
    except PlanUnreadable as error:
        yield _finding(plan, f"{newest.path.name} of {name}: {error}", f"{_KEY}=null")
        return
    yield from _hindrances(plan, source, before)


def _hindrances(plan: Plan, source: RunFolder, before: Plan) -> list[Diagnostic]:
    """Why a plan cannot go on from a checkpoint that was written under `before`."""
    name, found = source.path.name, []
    changes = [j for j in resume.judge(before, plan) if j.verdict is resume.Verdict.REFUSED]
    others = [judged for judged in changes if judged.change.key not in _OF_THE_NUMBER]
    if others:
        message = f"run {name} differs in more than the number of processes"
        found.append(_finding(plan, message, f"{_KEY}=null", *(str(judged) for judged in others)))
    if plan.settings["deepspeed"]["kind"] != "none" and _processes(before) != _processes(plan):
        message = f"ZeRO's state in {name} is cut for {_processes(before)} processes"
        hint = f"{_KEY}=null launch.processes={_processes(before)}"
        note = "data parallelism without an engine, and FSDP2, go on with another number"
        found.append(_finding(plan, message, hint, note))
    return found


def _source(plan: Plan) -> RunFolder:
    return RunFolder(Path(plan.settings["paths"]["runs"]) / plan.settings["checkpoint"]["reshard"])


def _own(plan: Plan) -> bool:
    """Has the run come to a checkpoint, or to its end, itself?"""
    run = RunFolder(plan.run_folder)
    return run.manifest.is_file() or _newest(run) is not None


def _newest(run: RunFolder) -> Checkpoint | None:
    return next((f for f in checkpoints.scan(run.checkpoint_folder) if not f.fault), None)


def _processes(plan: Plan) -> int:
    return int(plan.settings["launch"]["processes"])


def _finding(plan: Plan, message: str, hint: str, *notes: str) -> Diagnostic:
    chain = plan.origins.chain(_KEY)
    return Diagnostic("LF468", message, key=_KEY, origins=chain, notes=notes, hint=hint)
