"""Before a worker is started: is this the machine that the plan is for?

In: a plan. Out: nothing, or a refusal: LF408 for the hardware, which is looked up without torch,
LF812 for a model that cannot be had here (see `reach.py`), LF920, LF922 or LF924 for an upload
that the hub would refuse (see `hub/permission.py`).
"""

from __future__ import annotations

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run.hub import check_push
from llmforge.run.reach import check_hub


def check_here(plan: Plan) -> None:
    """Refuse a plan whose hardware this machine does not have, or whose model it cannot get.

    Raises:
        ConfigRefused: LF408, LF812; LF920, LF922, LF924 for an upload that would be refused.
    """
    from llmforge.compiler.facts.hardware import probe_hardware

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
    needed = plan.settings["launch"]["processes"]
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
    check_hub(plan)
    check_push(plan)
