"""Runs to be run again: what `train --run REF` means.

In: a reference. Out: `Again`: the recorded run, and the plan to run now. A run that is finished is
run once more, in a folder of its own; any other goes on where it stopped. A run whose folder is not
here is got from MLflow by its id. Findings are LF116 and LF809.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan, PlanUnreadable
from llmforge.refs.plans import RUNS, run_of

if TYPE_CHECKING:
    from llmforge.run.folder import RunFolder

_MLFLOW_ID = re.compile(r"(?:mlflow:)?(?P<id>[0-9a-f]{32})")


@dataclass(frozen=True)
class Again:
    """A recorded run and what to do about it."""

    plan: Plan
    """To be run now."""
    before: RunFolder | None
    """What its result is compared with; None for a run that goes on where it stopped."""


def again(ref: str) -> Again:
    """See the module.

    Raises:
        ConfigRefused: LF809 when there is no such run, LF116 when its plan cannot be read.
    """
    from llmforge.run import repeat
    from llmforge.run.status import Status

    try:
        run = run_of(ref)
    except ConfigRefused:
        named = _MLFLOW_ID.fullmatch(ref)
        if named is None:
            raise
        run = _of_mlflow(named["id"])
        return Again(repeat.fresh(_plan(run), Path(RUNS)), run)
    plan = _plan(run)
    if run.status() is not Status.FINISHED:
        return Again(plan, None)
    return Again(repeat.fresh(plan, repeat.next_folder(run)), run)


def _plan(run: RunFolder) -> Plan:
    try:
        plan = run.plan()
        plan.spec  # noqa: B018 - typed here, so that a plan of another version is refused now
    except PlanUnreadable as error:
        raise _refused("LF116", str(error), "llmforge plan -o plan.json") from error
    return plan


def _of_mlflow(run_id: str) -> RunFolder:
    """What MLflow has of a run, in the cache folder."""
    from llmforge.compiler.generation import ask
    from llmforge.run.environment import secret
    from llmforge.run.folder import RunFolder
    from llmforge.track.address import public
    from llmforge.track.fetch import NotFetched, fetched

    values = ask(()).draft.values
    tracking = values["tracking"]
    if tracking["kind"] != "mlflow":
        raise _refused("LF809", f"no run `{run_id}` here, and nothing is tracked", "llmforge runs")
    uri = str(tracking["uri"])
    target = Path(values["paths"]["cache"]) / "mlflow-runs" / run_id
    try:
        return RunFolder(fetched(uri, run_id, target, secret(tracking.get("token"))))
    except NotFetched as error:
        raise _refused(
            "LF809",
            f"no run `{run_id}` here, nor can it be had from MLflow at {public(uri)}: {error}",
            "llmforge runs",
        ) from error


def _refused(code: str, message: str, hint: str) -> ConfigRefused:
    return ConfigRefused([Diagnostic(code, message, hint=hint)])
