"""The verb evaluate: measure a model that is there, on any rows or by benchmark tasks.

In: a run and overrides of data, evaluation, generation or metrics; or a plan, whose run is measured
as it was. Out: `evaluations/<name>.json` beside the run, its figures in the run's MLflow record.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.verbs import MakeVerb, run_stage, tell

if TYPE_CHECKING:
    from llmforge.diagnostics import Diagnostic
    from llmforge.run.folder import RunFolder
    from llmforge.run.measure import Request


def add(verb: MakeVerb) -> None:
    """Declare the verb."""
    made = verb("evaluate", _evaluate, "measure a run's model again, on any rows or by benchmarks")
    made.composed().planned()
    made.flag("--checkpoint", metavar="best|last|STEP", help="weights; default: the final model")
    made.flag(
        "--weights", choices=("model", "fused"), default="model",
        help="of the run: those it trained, or the fused model",
    )  # fmt: skip
    made.flag("--name", metavar="NAME", help="of the results; default: the next number")
    made.flag("--tasks", metavar="TASKS", help="lm-eval tasks: names or folders, with commas")
    made.flag(
        "--trust-task-code", action="store_true", help="run the functions that task files name"
    )


def _evaluate(parsed: argparse.Namespace) -> int:
    if parsed.ref is not None and parsed.plan is None:
        return _again(parsed)
    _only_with_run(parsed)
    from llmforge.refs import plan_to_run

    return run_stage(parsed, "evaluate", plan_to_run(parsed)).exit_code


def _only_with_run(parsed: argparse.Namespace) -> None:
    """Flags that mean nothing for the plan of overrides or of a file."""
    given = [
        f"--{name.replace('_', '-')}"
        for name in ("checkpoint", "name", "tasks", "trust_task_code")
        if getattr(parsed, name)
    ]
    given += ["--weights"] if parsed.weights != "model" else []
    if given:
        message = f"`{given[0]}` needs the run whose model is measured"
        raise _refused("LF224", message, hint="--run last")


def _again(parsed: argparse.Namespace) -> int:
    from llmforge.compiler.again import measuring
    from llmforge.compiler.passes import freeze
    from llmforge.diagnostics import refuse_on_error
    from llmforge.refs import run_of
    from llmforge.run import measure
    from llmforge.run.launch import run_measurement
    from llmforge.run.preflight import check_here

    run = run_of(parsed.ref)
    request = _request(parsed, run)
    # the tokenizer lies beside the weights, as training saved it
    tokenizer = Path(request.model)
    fused = Path(request.model) if parsed.weights == "fused" else None
    checked = measuring(run.plan(), tokenizer, parsed.overrides, parsed.config_dirs, fused)
    found = [d for d in checked.diagnostics if not (request.tasks and d.code == "LF228")]
    refuse_on_error(found)
    tell(found)
    assert checked.context is not None  # noqa: S101 - no error means every pass ran
    plan = freeze(checked.context, checked.origins, found, parsed.overrides)
    check_here(plan)
    plan.save(measure.plan_file(run, request.name))
    outcome = run_measurement(plan, run, request.variables())
    if outcome.diagnostic is not None:
        tell([outcome.diagnostic])
    return outcome.exit_code


def _request(parsed: argparse.Namespace, run: RunFolder) -> Request:
    from llmforge.run import measure

    name = parsed.name or measure.free_name(run)
    if not measure.is_name(name):
        message = f"`{name}` cannot be the name of an evaluation: letters, digits, `_`, `.`, `-`"
        raise _refused("LF228", message, hint=f"--name {measure.free_name(run)}")
    if measure.results_file(run, name).exists():
        message = f"run {run.run_id} has an evaluation `{name}` already"
        notes = (f"in {measure.results_file(run, name)}",)
        raise _refused("LF228", message, notes, f"--name {measure.free_name(run)}")
    tasks, folders = _tasks(parsed)
    model, which, step = _weights(parsed, run)
    return measure.Request(name, model, which, step, tasks, folders, parsed.trust_task_code)


def _tasks(parsed: argparse.Namespace) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of benchmark tasks, and the folders some of them are defined in."""
    words = tuple(filter(None, (parsed.tasks or "").split(",")))
    if not words:
        return (), ()
    from llmforge.compose.benchmarks import check_tasks, is_folder, names_in
    from llmforge.diagnostics import refuse_on_error

    refuse_on_error(check_tasks(words, parsed.trust_task_code))
    folders = tuple(word for word in words if is_folder(word))
    names = [word for word in words if not is_folder(word)]
    names += [name for folder in folders for name in names_in(Path(folder))]
    return tuple(dict.fromkeys(names)), folders


def _weights(parsed: argparse.Namespace, run: RunFolder) -> tuple[str, str, int]:
    """Folder, name and step of the weights to measure."""
    from llmforge.refs import find_model
    from llmforge.run.choice import NoCheckpoint, choose_checkpoint
    from llmforge.run.making.order import record

    if parsed.weights == "fused":
        found = find_model(run.path, parsed.checkpoint, weights="fused")
        step = int((record(run, "fuse") or {}).get("step", 0))
        return str(found.folder), "fused", step
    if parsed.checkpoint is None:
        if not run.manifest.is_file():
            message = f"run {run.run_id} is {run.status().value}: it has no final model to evaluate"
            there = "--checkpoint last" if run.checkpoints() else "llmforge runs"
            raise _refused("LF809", message, (f"looked in {run.path}",), there)
        return str(run.model), "final", int((run.result() or {}).get("steps", 0))
    try:
        chosen = choose_checkpoint(run, parsed.checkpoint)
    except NoCheckpoint as error:
        hint = error.hint and error.hint.replace("checkpoint=", "--checkpoint ")
        raise _refused("LF809", str(error), error.notes, hint) from error
    return str(chosen.path), str(chosen.step), chosen.step


def _refused(
    code: str, message: str, notes: tuple[str, ...] = (), hint: str | None = None
) -> Exception:
    from llmforge.diagnostics import ConfigRefused, Diagnostic

    found: Diagnostic = Diagnostic(code, message, notes=notes, hint=hint)
    return ConfigRefused([found])
