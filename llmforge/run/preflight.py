"""Before a worker is started: is this the machine that the plan is for?

In: a plan. Out: nothing, or a refusal: LF453 to LF467 for a launcher that cannot start (see
`reach_launch.py`), LF468 for a run that cannot be gone on from (see `resharding.py`), LF408 for the
hardware, which is looked up without torch,
LF625 for a model whose own run is not finished (see `bases.py`), LF812 for one that cannot be had
here (see `reach.py`), LF920, LF922 or LF924 for an upload
that the hub would refuse (see `hub/permission.py`).
"""

from __future__ import annotations

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run.bases import check_base
from llmforge.run.hub import check_push
from llmforge.run.reach import check_hub
from llmforge.run.resharding import check_reshard
from llmforge.run.starting.commands import is_elsewhere
from llmforge.run.starting.reach_launch import check_launch


def check_here(plan: Plan, with_base: bool = True) -> None:
    """Refuse a plan whose hardware this machine does not have, or whose model it cannot get.

    Args:
        with_base: the model that another run trains must be there already.

    Raises:
        ConfigRefused: LF408, LF468, LF625, LF812; LF920, LF922, LF924 for an upload that would be
            refused.
    """
    from llmforge.compiler.facts.hardware import probe_hardware

    check_launch(plan)
    check_reshard(plan)
    if is_elsewhere(plan.settings["launch"]):
        check_hub(plan)
        check_push(plan)
        return
    wanted = plan.settings["hardware"]
    here = probe_hardware()
    if wanted["device"] == "cuda" and here["device"] != "cuda":
        raise ConfigRefused(
            [
                Diagnostic(
                    "LF408",
                    f"the plan is for {wanted['count']} x {wanted['name']}; this machine has no "
                    "GPU",
                    key="hardware.name",
                    origins=plan.origins.chain("hardware.name"),
                    hint="hardware=auto",
                )
            ]
        )
    launch = plan.settings["launch"]
    needed = int(launch["processes"]) // int(launch.get("nodes") or 1)
    if wanted["device"] == "cuda" and needed > here["count"]:
        raise ConfigRefused(
            [
                Diagnostic(
                    "LF408",
                    f"the plan runs {needed} processes; this machine has {here['count']} GPUs",
                    key="launch.processes",
                    origins=plan.origins.chain("launch.processes"),
                    hint=f"launch.processes={here['count']}",
                )
            ]
        )
    if with_base:
        check_base(plan)
    check_hub(plan)
    check_push(plan)
