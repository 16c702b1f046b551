"""One stage of a chain: found finished, or done in its worker.

In: a link. Out: `Done`: the exit code, the main figures, where the result lies, and whether it was
there before. What decides that it was is the stage's own: a fingerprint beside what it left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run.chain.links import Link
from llmforge.run.folder import RunFolder
from llmforge.run.launch import Outcome, run_answers, run_plan
from llmforge.run.making import order as making
from llmforge.run.making.after import make_after
from llmforge.run.ready import prepared_report
from llmforge.run.status import Status
from llmforge.stage_order import Making
from llmforge.store import prepared_folder

WITH_TRAINING = "measured with the training"


@dataclass(frozen=True)
class Done:
    """What a stage came to."""

    code: int = 0
    """Exit code: 0 done, 1 failed, 2 refused, 130 interrupted."""
    reused: bool = False
    figures: Mapping[str, float] = field(default_factory=dict)
    place: str = ""
    why: str = ""
    record: str = ""
    found: tuple[Diagnostic, ...] = ()
    """What is to be told of a failure."""


def do(link: Link, quiet: bool = False) -> Done:
    """Do a stage, or find it finished."""
    try:
        return _STAGES[link.stage](link.plan, quiet)
    except ConfigRefused as refusal:
        return Done(2, found=tuple(refusal.diagnostics))


def _prepare(plan: Plan, quiet: bool) -> Done:
    run = RunFolder(plan.run_folder)
    report, reused = prepared_report(plan), True
    if report is None:
        outcome, reused = run_plan(plan, "prepare", quiet), False
        if outcome.exit_code:
            return _failed(outcome)
        report = run.read_json("prepare.json") or {}
    place = prepared_folder(plan.settings["paths"]["cache"], plan.stages["prepare"])
    sides = {"samples": "train", "held out": "evaluation"}
    figures = {name: report[side]["samples"] for name, side in sides.items() if report.get(side)}
    return Done(0, reused, figures, str(place), record=_there(run, "prepare.json"))


def _train(plan: Plan, quiet: bool) -> Done:
    run = RunFolder(plan.run_folder)
    before = run.status() is Status.FINISHED and run.result() is not None
    # of a finished run, only what its record in MLflow may still miss is done, without a word
    outcome = run_plan(plan, "train", quiet or before, only=True)
    if outcome.exit_code:
        return _failed(outcome)
    result = outcome.result or {}
    figures = _named(result, {"steps": "steps", "train_loss": "training loss"})
    return Done(0, outcome.reused, figures, str(run.model), record=_there(run, "result.json"))


def _evaluate(plan: Plan, quiet: bool) -> Done:
    run = RunFolder(plan.run_folder)
    measured = {**(run.result() or {})}
    known = run.read_json("evaluation.json") or {}
    name, reused, why = "result.json", False, WITH_TRAINING
    if _LOSS not in measured:
        name, reused, why = "evaluation.json", _LOSS in known, ""
        if not reused:
            outcome = run_plan(plan, "evaluate", quiet)
            if outcome.exit_code:
                return _failed(outcome)
            known = run.read_json(name) or {}
        measured = known
    figures = _named(measured, _MEASURED)
    before = _named(measured.get("baseline") or {}, _MEASURED)
    figures |= {f"{key} before": value for key, value in before.items()}
    return Done(0, reused, figures, str(run.path / name), why, _there(run, name))


_LOSS = "eval_loss"
"""What every measurement has; tuning by preferences has no perplexity."""
_MEASURED = {
    "eval_perplexity": "perplexity",
    "exact_match": "exact match",
    "eval_accuracy": "accuracy",
}


def _fuse(plan: Plan, quiet: bool) -> Done:
    return _made(plan, "fuse", quiet)


def _quantize(plan: Plan, quiet: bool) -> Done:
    return _made(plan, "quantize", quiet)


def _made(plan: Plan, stage: Making, quiet: bool) -> Done:
    run, outcome = RunFolder(plan.run_folder), make_after(plan, stage, quiet)
    record = outcome.result
    if outcome.exit_code or record is None:
        return _failed(outcome)
    size = sum(int(entry["bytes"]) for entry in record["files"].values())
    figures = {"size": float(size), **main_figures(making.numbers(record))}
    return Done(
        0,
        outcome.reused,
        figures,
        str(record["target"]),
        record=str(making.record_file(run, stage)),
    )


def main_figures(numbers: Mapping[str, float]) -> dict[str, float]:
    """Of the numbers of a record those that a table has room for, by names for people."""
    found: dict[str, float] = {}
    for end, name in _OF_RECORDS.items():
        for key, value in numbers.items():
            if key == end or key.endswith(f"/{end}"):
                found.setdefault(name, value)
    return found


_OF_RECORDS = {
    "mean_kl": "mean KL",
    "agreement": "top-1 agreement",
    "perplexity_before": "perplexity before",
    "perplexity_after": "perplexity",
}


def _answers(plan: Plan, quiet: bool) -> Done:
    from llmforge.run.chain.answering import FILE, finished, request

    run = RunFolder(plan.run_folder)
    asked = request(plan, run)
    known = finished(run, asked)
    reused = known is not None
    if known is None:
        outcome = run_answers(plan, run, asked.variables(), quiet)
        if outcome.exit_code:
            return _failed(outcome)
        known = finished(run, asked) or {}
    figures = {f"right: {name}": float(right) for name, right in known["right"].items()}
    return Done(0, reused, figures, str(run.path / FILE), record=_there(run, FILE))


_STAGES = {
    "prepare": _prepare,
    "train": _train,
    "evaluate": _evaluate,
    "fuse": _fuse,
    "quantize": _quantize,
    "answers": _answers,
}


def _failed(outcome: Outcome) -> Done:
    found = (outcome.diagnostic,) if outcome.diagnostic is not None else ()
    why = found[0].message if found else outcome.status.value
    return Done(outcome.exit_code or 1, found=found, why=why)


def _named(figures: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, float]:
    return {name: float(figures[key]) for key, name in names.items() if key in figures}


def _there(run: RunFolder, name: str) -> str:
    path: Path = run.path / name
    return str(path) if path.is_file() else ""
