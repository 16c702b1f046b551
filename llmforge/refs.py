"""What a reference on the command line names: a plan file, a run, or a set of overrides.

In: a text. Out: a `Plan`, a run folder, a loaded model. Findings are diagnostics (LF116, LF408,
LF809). The heavy parts are imported where they are needed.
"""

from __future__ import annotations

import argparse
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.diagnostics import ConfigRefused, Diagnostic, did_you_mean
from llmforge.plan import Plan, PlanUnreadable

if TYPE_CHECKING:
    from llmforge.run.launch import Outcome
    from llmforge.run.ledger import RunFolder

RUNS = "runs"
"""Where runs are looked for when nothing else is said; `paths.runs` as shipped."""


def load_plan(path: str | Path) -> Plan:
    """A saved plan.

    Raises:
        ConfigRefused: LF116 when it is missing or unreadable.
    """
    try:
        plan = Plan.load(path)
        plan.spec  # noqa: B018 - typed here, so that a plan of another version is refused now
    except FileNotFoundError:
        folder = Path(path).parent
        there = [str(p) for p in folder.glob("*.json")]
        raise _refused(
            "LF116",
            f"plan file {path} does not exist",
            did_you_mean(str(path), there),
            f"llmforge plan -o {path}",
        ) from None
    except PlanUnreadable as error:
        raise _refused("LF116", str(error), hint=f"llmforge plan -o {path}") from error
    except OSError as error:
        raise _refused("LF116", f"{path} cannot be read: {error.strerror}") from error
    return plan


def _refused(
    code: str, message: str, notes: tuple[str, ...] = (), hint: str | None = None
) -> ConfigRefused:
    return ConfigRefused([Diagnostic(code, message, notes=notes, hint=hint)])


def run_of(ref: str, runs: str = RUNS) -> RunFolder:
    """The run folder a reference names.

    Raises:
        ConfigRefused: LF809 when there is none.
    """
    from llmforge.run.ledger import find_run

    try:
        return find_run(ref, Path(runs))
    except LookupError as error:
        raise _refused("LF809", str(error.args[0]), hint="llmforge runs") from error


def plan_of(ref: str, config_dirs: Sequence[str] = ()) -> Plan:
    """The plan that a plan file, a run, or quoted overrides stand for."""
    from llmforge.compiler.passes import compile_plan

    if Path(ref).is_file() or (ref.endswith(".json") and "=" not in ref):
        return load_plan(ref)
    if "=" in ref or not ref.strip():
        return compile_plan(shlex.split(ref), config_dirs)
    return run_of(ref).plan()


def plan_to_run(parsed: argparse.Namespace) -> Plan | None:
    """The plan that `--plan` or `--run` names; None for neither."""
    if parsed.plan is None and parsed.ref is None:
        return None
    if parsed.overrides:
        raise _refused(
            "LF116",
            "a saved plan runs exactly as it is; overrides cannot change it",
            hint=f"llmforge plan {shlex.join(parsed.overrides)} -o plan.json",
        )
    return load_plan(parsed.plan) if parsed.plan else run_of(parsed.ref).plan()


def load_run(run: Outcome | str | Path, dtype: str | None = None) -> tuple[Any, Any]:
    """See `llmforge.load`."""
    from llmforge.build.load import load
    from llmforge.run.ledger import RunFolder, find_run

    if isinstance(run, str | Path):
        folder = find_run(str(run), Path(RUNS))
    else:
        folder = RunFolder.open(run.folder)
    return load(final_model(folder), dtype)


def final_model(folder: RunFolder) -> Path:
    """The final model's folder.

    Raises:
        LookupError: the run has not written one.
    """
    model = folder.path / "model"
    if not model.is_dir():
        raise LookupError(
            f"run {folder.path.name} is {folder.status().value}: it has no final model yet"
        )
    return model


def generate(ref: str, prompt: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> int:
    """Answer a prompt with a run's model, streaming to stdout."""
    folder = run_of(ref)
    settings = dict(folder.plan().settings["generation"])
    if overrides:
        settings |= _asked_for("generation", overrides, config_dirs)
    try:
        model_folder = final_model(folder)
    except LookupError as error:
        raise _refused("LF809", str(error.args[0]), hint="llmforge runs") from error
    from llmforge.run.worker import quieten

    quieten()
    from llmforge.build.load import load
    from llmforge.stages.generate import answer

    model, tokenizer = load(model_folder)
    print(answer(model, tokenizer, prompt, settings))
    return 0


def _asked_for(
    section: str, overrides: Sequence[str], config_dirs: Sequence[str]
) -> dict[str, Any]:
    """What the command line sets in a section; the rest stays as the run has it."""
    from llmforge.compiler.passes import compile_plan

    plan = compile_plan(overrides, config_dirs)
    found = {}
    for name, value in plan.settings[section].items():
        origin = plan.origins.chain(f"{section}.{name}")[-1]
        if origin.kind == "override" or origin.reason.endswith("on the command line"):
            found[name] = value
    return found


def runs_table(folder: str, as_json: bool) -> str:
    """All runs below a folder, newest first."""
    from llmforge import render
    from llmforge.run.ledger import list_runs

    found = []
    for run in list_runs(Path(folder)):
        result = run.result() or {}
        found.append(
            {
                "run": run.path.name,
                "status": run.status().value,
                "steps": result.get("steps"),
                "train_loss": result.get("train_loss"),
                "eval_perplexity": result.get("eval_perplexity"),
                "exact_match": result.get("exact_match"),
            }
        )
    if as_json:
        return json.dumps(found, indent=2)
    if not found:
        return f"no runs in {folder}; llmforge train makes one"
    head = list(found[0])
    rows = [["" if row[k] is None else _figure(row[k]) for k in head] for row in found]
    return render.table(rows, head)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
