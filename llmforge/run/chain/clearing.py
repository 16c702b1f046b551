"""Before the first stage of a chain: what any of its stages would refuse is refused now.

In: a plan, its links. Out: nothing, or a refusal. The plan itself was compiled, so what its
settings forbid is told already; here is what depends on this machine: its hardware, the hub, room
for what will be made (by the plan's sizes: no weights are there to be looked at yet), and the
results that `--from` takes for granted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmforge.diagnostics import ConfigRefused, Diagnostic, refuse_on_error
from llmforge.plan import Plan
from llmforge.run.bases import check_base
from llmforge.run.chain.links import Link
from llmforge.run.folder import RunFolder
from llmforge.run.making.clearance import check_disk, check_memory
from llmforge.run.making.order import record, record_file
from llmforge.run.preflight import check_here
from llmforge.run.starting.commands import waits
from llmforge.run.status import Status
from llmforge.stage_order import FOLDERS

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_BESIDE = 2**29
"""Bytes of a worker with its libraries, before any weight."""


def check_chain(plan: Plan, links: Sequence[Link], settles: bool) -> None:
    """Refuse what a stage would refuse.

    Args:
        settles: the plan can be compiled again once its data are prepared.

    Raises:
        ConfigRefused: LF408, LF812, LF92x of a plan that this machine cannot run; LF456 for a job
            that nobody waits for; LF513; LF625 and
            LF984 for what is left out and was not done before; LF940, LF941 for an adapter that
            cannot be merged, LF945, LF946 for no room to do it.
    """
    plans = {link.plan.run_id: link.plan for link in links if link.left_out is None}
    bases = {link.plan.run_id for link in links if link.stage != link.name}
    trained_here = any(link.name != link.stage and link.left_out is None for link in links)
    for one in plans.values():
        check_here(one, with_base=False)
        _check_waits(one)
    if not trained_here:
        check_base(plan)
    for link in links:
        unsettled = link.stage == "train" and not link.plan.settled and not settles
        if unsettled and link.left_out is None:
            raise _unsettled(link.plan)
        if link.stage == "fuse" and link.left_out is None:
            _check_merge(link.plan)
            _check_room(link.plan)
    own = [link for link in links if link.plan.run_id not in bases]
    first = next((link for link in own if link.left_out is None), None)
    if first is not None:
        _check_earlier(first, own)


def _check_waits(plan: Plan) -> None:
    """LF456: what follows on a job must know that it is over."""
    if waits(plan):
        return
    raise ConfigRefused(
        [
            Diagnostic(
                "LF456",
                "`llmforge run` goes on when the job is over, and launch.wait=false leaves it",
                key="launch.wait",
                origins=plan.origins.chain("launch.wait"),
                hint="launch.wait=true",
            )
        ]
    )


def _check_merge(plan: Plan) -> None:
    """What the rules say of a merge, where it is not `fuse.after_training` that asks for it."""
    if plan.settings["fuse"]["after_training"]:
        return  # they have said it when the plan was made
    from llmforge.compiler.making import making

    _, found = making(plan, ["fuse.after_training=true"])
    refuse_on_error([replace(one, hint=None) for one in found])


def _check_room(plan: Plan) -> None:
    """Room for the fused weights beside what is there; exact figures are looked at by the stage."""
    model = plan.facts.get("model")
    run = RunFolder(plan.run_folder)
    if model is None or record(run, "fuse") is not None:
        return
    asked = plan.settings["fuse"]["dtype"]
    dtype = plan.settings["precision"]["weights"] if asked == "auto" else asked
    written = int(model["parameters"]) * _BYTES[dtype]
    folder = plan.settings["fuse"]["folder"]
    target = Path(folder) if folder else run.path / FOLDERS["fuse"]
    check_disk(written, target, "fuse", "LF945", plan)
    parts = (
        f"the fused weights in {dtype} {written / 2**30:.2f} GiB, "
        f"libraries {_BESIDE / 2**30:.2f} GiB"
    )
    check_memory(written + _BESIDE, parts, "fuse", "LF946", plan)


def _check_earlier(first: Link, links: Sequence[Link]) -> None:
    """LF984 where a stage before the first one was left out and is not done."""
    plan, run = first.plan, RunFolder(first.plan.run_folder)
    before = [link.stage for link in links[: links.index(first)]]
    missing = None
    if "train" in before and not (run.status() is Status.FINISHED and run.manifest.is_file()):
        missing = "train", f"run {plan.run_id} is {run.status().value}"
    needs_fused = "fuse" in before and plan.settings["lora"]["kind"] != "none"
    if missing is None and needs_fused and record(run, "fuse") is None:
        missing = "fuse", f"there is no {record_file(run, 'fuse')}"
    if missing is None:
        return
    stage, why = missing
    raise ConfigRefused(
        [
            Diagnostic(
                "LF984",
                f"`{first.stage}` needs what `{stage}` makes, which is not there: {why}",
                hint=f"--from {stage}",
            )
        ]
    )


def _unsettled(plan: Plan) -> ConfigRefused:
    """LF513, as `llmforge train` would say it after the stages before it."""
    from llmforge.run.ready import settle

    try:
        settle(plan, None)
    except ConfigRefused as refusal:
        return refusal
    raise AssertionError("a plan that is settled is not asked about")
