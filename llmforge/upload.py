"""What `llmforge push REF` does: an upload by hand, of a run that is done or under way.

In: a reference to a run, what the command line says, and which checkpoint. Out: the entry, and the
diagnostic if it failed. What the command line leaves open is as the run's plan has it, or, for a
run that pushes nothing, as `conf/hub/push.yaml` has it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmforge.compiler.parse import parse_or_fail
from llmforge.compiler.rules.hub import repository_fault
from llmforge.compose import compose
from llmforge.diagnostics import ConfigRefused, Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.refs import run_of
from llmforge.run import sealing
from llmforge.run.checkpoints import Checkpoint
from llmforge.run.folder import RunFolder
from llmforge.run.hub.order import Order
from llmforge.run.hub.pushing import push, warning
from llmforge.run.hub.record import Entry


def push_again(
    ref: str, given: Mapping[str, Any], checkpoint: str | None
) -> tuple[Entry, Diagnostic | None]:
    """Upload what a reference names.

    Args:
        ref: run id, run folder, `last`.
        given: settings of `hub` that the command line says.
        checkpoint: `best`, `last`, a step; None takes the final model.

    Raises:
        ConfigRefused: no such run, model or checkpoint (LF809); no repository (LF701), or a name
            that the hub does not allow (LF923); an adapter that there is none of (LF921); a token
            as a plain value (LF114).
    """
    run = run_of(ref)
    plan = run.plan()
    order = _order(plan, given)
    chosen = _chosen(run, checkpoint)
    if chosen is None and not run.manifest.is_file():
        raise _refused(
            "LF809",
            f"run {run.run_id} is {run.status().value}: it has no final model",
            hint=f"llmforge push {run.run_id} --checkpoint last",
        )
    entry = push(plan, run, order, chosen)
    failed = warning(entry)
    return entry, replace(failed, severity=Severity.ERROR) if failed else None


def _order(plan: Plan, given: Mapping[str, Any]) -> Order:
    hub = dict(plan.settings["hub"])
    if hub["kind"] != "push":
        hub = dict(compose(["hub=push"], ()).values["hub"]) | {"repository": hub["repository"]}
    hub |= given
    if not hub["repository"]:
        hint = f"llmforge push {plan.run_id} --repository <owner>/{plan.name}"
        raise _refused("LF701", "no repository is given", hint=hint)
    if fault := repository_fault(hub["repository"]):
        raise _refused(
            "LF923", f"`{hub['repository']}` cannot be the name of a repository: {fault}"
        )
    if hub["what"] == "adapter" and plan.settings["lora"]["kind"] == "none":
        raise _refused("LF921", "the run trained no adapter", hint="--what model")
    try:
        parse_or_fail({**plan.settings, "hub": hub})
    except ValueError:
        # the value is not repeated: it may be the secret
        raise _refused(
            "LF114", "--token or --revision is no `env:NAME` or branch", hint="--token env:HF_TOKEN"
        ) from None
    return Order.of(hub)


def _chosen(run: RunFolder, name: str | None) -> Checkpoint | None:
    if name is None:
        return None
    known = run.checkpoints()
    steps = ", ".join(str(found.step) for found in known) or "none"
    if name == "last" and known:
        return known[0]
    wanted = _best(known) if name == "best" else int(name) if name.isdecimal() else None
    for found in known:
        if found.step == wanted:
            return found
    raise _refused(
        "LF809",
        f"run {run.run_id} has no checkpoint `{name}`",
        notes=(f"whole checkpoints, by step: {steps}",),
        hint=f"--checkpoint {known[0].step}" if known else None,
    )


def _best(known: list[Checkpoint]) -> int | None:
    """Step of the best one, as the newest knows it."""
    best = sealing.facts(known[0].path).get("best") if known else None
    return None if best is None else int(best)


def _refused(
    code: str, message: str, notes: tuple[str, ...] = (), hint: str | None = None
) -> ConfigRefused:
    return ConfigRefused([Diagnostic(code, message, notes=notes, hint=hint)])
