"""The run that trains a plan's model: where its weights lie, and whether they are there.

In: a plan. Out: folders; or a refusal (LF625) before a worker starts, where the run that trains the
model is not finished. The run itself is started by `llmforge run` (`chain/`), never by this module.
"""

from __future__ import annotations

import shlex

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan


def missing(plan: Plan) -> str | None:
    """Why the model of a plan cannot be read yet; None where it can, or where no run trains it."""
    from llmforge.run.folder import RunFolder
    from llmforge.run.making.order import decisive, record
    from llmforge.run.status import Status

    base = plan.base_plan
    if base is None:
        return None
    run = RunFolder(base.run_folder)
    status = run.status()
    if status is not Status.FINISHED or not run.manifest.is_file():
        there = "has not begun" if status is Status.CREATED else f"is {status.value}"
        return f"run {base.run_id}, which trains the model, {there}"
    if plan.settings["model"]["weights"] == "fused":
        made, folder = record(run, "fuse"), base.weights_folder("fused")
        if made is None or not (folder / "config.json").is_file():
            return f"the adapter of run {base.run_id}, which trains the model, is not fused"
        asked, known = decisive(base, "fuse"), made["settings"]
        other = [f"fuse.{name}" for name in asked if asked[name] != known.get(name)]
        if other:
            return f"the adapter of run {base.run_id} was fused with another {', '.join(other)}"
    return None


def check_base(plan: Plan) -> None:
    """Refuse a plan whose model is not trained yet.

    A run that is finished is answered from its folder, and needs no model.

    Raises:
        ConfigRefused: LF625.
    """
    from llmforge.run.folder import RunFolder
    from llmforge.run.status import Status

    why = missing(plan)
    if why is None or RunFolder(plan.run_folder).status() is Status.FINISHED:
        return
    raise ConfigRefused(
        [
            Diagnostic(
                "LF625",
                why,
                key="model.overrides",
                origins=plan.origins.chain("model.overrides"),
                notes=("`llmforge run` trains it first, and then goes on with this plan",),
                hint=f"llmforge run {shlex.join(plan.overrides)}".rstrip(),
            )
        ]
    )
