"""What `llmforge push REF` does: an upload by hand, of a run that is done or under way, of what was
made of its model since, or of any folder with a model.

In: a reference, what the command line says, and which checkpoint. Out: the entry, and the
diagnostic if it failed. What the command line leaves open is as the run's plan has it, or, for a
run that pushes nothing and for a folder of no run, as `conf/hub/push.yaml` has it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmforge.compiler.parse import parse_section
from llmforge.compiler.rules.hub import repository_fault
from llmforge.compose import compose
from llmforge.diagnostics import ConfigRefused, Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.refs import run_of
from llmforge.run import sealing
from llmforge.run.checkpoints import Checkpoint
from llmforge.run.folder import RunFolder
from llmforge.run.hub import folders
from llmforge.run.hub.folders import ModelFolder
from llmforge.run.hub.order import Order
from llmforge.run.hub.pushing import push, push_folder, warning
from llmforge.run.hub.record import Entry
from llmforge.run.making import order as making
from llmforge.run.making.labels import labelled_plan, read_label
from llmforge.stage_order import FOLDERS

MADE = {folder: stage for stage, folder in FOLDERS.items()}
"""What may be pushed of what was made of a run's model -> the stage that makes it."""


def push_again(
    ref: str, given: Mapping[str, Any], checkpoint: str | None
) -> tuple[Entry, Diagnostic | None]:
    """Upload what a reference names.

    Args:
        ref: run id, run folder, `last`, or a folder with a model.
        given: settings of `hub` that the command line says; `what` may also be one of `MADE`.
        checkpoint: `best`, `last`, a step; None takes the final model.

    Raises:
        ConfigRefused: no such run, model or checkpoint (LF809); no repository (LF701), or a name
            that the hub does not allow (LF923); an adapter that there is none of (LF921); a token
            as a plain value (LF114); something that was never made (LF913), is no model (LF914),
            or has changed since (LF915); flags that do not fit (LF916).
    """
    found = _folder(ref, given.get("what"))
    if found is None:
        entry = _push_run(run_of(ref), given, checkpoint)
    else:
        entry = _push_folder(found, given, checkpoint)
    failed = warning(entry)
    return entry, replace(failed, severity=Severity.ERROR) if failed else None


def _push_run(run: RunFolder, given: Mapping[str, Any], checkpoint: str | None) -> Entry:
    plan = run.plan()
    order = _order(plan, plan.name, plan.run_id, given)
    if order.what == "adapter" and plan.settings["lora"]["kind"] == "none":
        raise _refused("LF921", "the run trained no adapter", hint="--what model")
    chosen = _chosen(run, checkpoint)
    if chosen is None:
        if not run.manifest.is_file():
            raise _refused(
                "LF809",
                f"run {run.run_id} is {run.status().value}: it has no final model",
                hint=f"llmforge push {run.run_id} --checkpoint last",
            )
        files = (run.read_json(run.manifest.name) or {}).get("files", {})
        if wrong := folders.fault(ModelFolder(run.model, "model", run.run_id, files, plan, run)):
            raise ConfigRefused([wrong])
    return push(plan, run, order, chosen)


def _push_folder(found: ModelFolder, given: Mapping[str, Any], checkpoint: str | None) -> Entry:
    what = given.get("what")
    if checkpoint is not None:
        raise _refused("LF916", f"{found.path} is one model, and --checkpoint would be another",
                       hint=f"llmforge push {shlex.quote(found.ref)}")  # fmt: skip
    if what is not None and what != found.what:
        raise _refused("LF916", f"{found.path} goes out as it is, and not as `--what {what}`",
                       hint=f"llmforge push {shlex.quote(found.ref)}")  # fmt: skip
    order = _order(found.plan, found.path.name, found.ref, given)
    if wrong := folders.fault(found):
        raise ConfigRefused([wrong])
    return push_folder(found, replace(order, what=found.what))  # type: ignore[arg-type]


def _folder(ref: str, what: str | None) -> ModelFolder | None:
    """The folder that is meant; None for a run itself."""
    path = Path(ref)
    if path.is_dir() and not _is_run(path):
        parent = path.absolute().parent
        if path.name == "model" and _is_run(parent):
            raise _refused("LF916", f"{path} is the model of a run, which is pushed by the run",
                           hint=f"llmforge push {shlex.quote(str(parent))}")  # fmt: skip
        return _by_label(path.absolute(), ref)
    if what not in MADE:
        return None
    run, stage = run_of(ref), MADE[what]
    made = making.record(run, stage)
    if made is None:
        raise _refused(
            "LF913", f"nothing {what} was made of run {run.run_id}",
            hint=f"llmforge {stage} --run {run.run_id}",
        )  # fmt: skip
    return ModelFolder(Path(made["target"]), what, run.run_id, made["files"], run.plan(), run)


def _by_label(path: Path, ref: str) -> ModelFolder:
    """A folder by itself: one that llmforge made says what it is, wherever it lies."""
    label = read_label(path)
    if label is None or label["stage"] not in FOLDERS:
        return ModelFolder(path, "folder", ref)
    what, plan = FOLDERS[label["stage"]], labelled_plan(label)
    run = RunFolder(path.parent)
    if _is_run(run.path) and run.run_id == label["run_id"]:
        # the run's own plan knows of its secrets and where they are
        return ModelFolder(path, what, ref, label["files"], run.plan(), run)
    return ModelFolder(path, what, ref, label["files"], plan)


def _is_run(path: Path) -> bool:
    return (path / "plan.json").is_file() and (path / "status.json").is_file()


def _order(plan: Plan | None, name: str, ref: str, given: Mapping[str, Any]) -> Order:
    hub = dict(plan.settings["hub"]) if plan is not None else {"kind": "none", "repository": None}
    if hub["kind"] != "push":
        hub = dict(compose(["hub=push"], ()).values["hub"]) | {"repository": hub["repository"]}
    hub |= {key: value for key, value in given.items() if value not in MADE}
    if not hub["repository"]:
        hint = f"llmforge push {shlex.quote(ref)} --repository <owner>/{name}"
        raise _refused("LF701", "no repository is given", hint=hint)
    if fault := repository_fault(hub["repository"]):
        raise _refused(
            "LF923", f"`{hub['repository']}` cannot be the name of a repository: {fault}"
        )
    spec, _ = parse_section("hub", hub)
    if spec is None:
        # the value is not repeated: it may be the secret
        raise _refused(
            "LF114", "--token or --revision is no `env:NAME` or branch", hint="--token env:HF_TOKEN"
        )
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
