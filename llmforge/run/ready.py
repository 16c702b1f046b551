"""What stands between a plan and its run: data that decide its length, and samples that are there.

In: a plan. Out: a plan whose steps are exact; or the report of samples that were prepared before,
without starting a worker. The driver's: nothing here imports torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run.launch import Outcome, run_plan
from llmforge.run.preflight import check_here


@dataclass
class NotPrepared(Exception):
    """The data of a plan could not be prepared."""

    outcome: Outcome


def settle(plan: Plan, again: Callable[[], Plan] | None, quiet: bool = False) -> Plan:
    """The plan with its exact length: its data are prepared first where the length follows from
    them, and it is compiled again.

    Args:
        again: compiles the same plan once more; None where it came from a file.

    Raises:
        NotPrepared: preparing failed; holds the outcome.
        ConfigRefused: LF513, a saved plan from before its data were prepared.
    """
    if plan.settled:
        return plan
    if again is None:
        raise ConfigRefused(
            [
                Diagnostic(
                    "LF513",
                    "the plan was saved before its data were prepared, so its steps are a guess",
                    key="collator.packing",
                    origins=plan.origins.chain("collator.packing"),
                    hint="llmforge prepare ... && llmforge plan ... -o plan.json",
                )
            ]
        )
    outcome = run_plan(plan, "prepare", quiet)
    if outcome.exit_code:
        raise NotPrepared(outcome)
    return again()


def run_ready(
    plan: Plan, again: Callable[[], Plan] | None, stage: str = "train", quiet: bool = False
) -> Outcome:
    """Run a stage on this machine, with everything that comes before it.

    Args:
        again: as for `settle`.

    Raises:
        ConfigRefused: what this machine cannot run (`preflight.py`); LF513.
    """
    check_here(plan)
    try:
        return run_plan(settle(plan, again, quiet), stage, quiet=quiet)
    except NotPrepared as failed:
        return failed.outcome


def prepared_report(plan: Plan) -> dict[str, Any] | None:
    """The report of samples that lie there whole and within the plan's limits; else None."""
    from llmforge.build.errors import DataRefused
    from llmforge.build.thresholds import check_thresholds
    from llmforge.stages.prepare import find

    found = find(plan)
    try:
        if found is not None:
            check_thresholds(plan, found)
    except DataRefused:
        return None  # the worker refuses with its diagnostic
    return found
