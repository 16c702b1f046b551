"""The page of a run.

In: a run folder. Out: HTML: curves, results, answers, what became of the rows, memory foretold
beside measured, warnings, settings with their origins, commands. May be asked while the run goes
on: it shows what there is.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from llmforge.plan import Plan
from llmforge.render import size_text
from llmforge.report import drawing
from llmforge.report.page import NAME, figure, from_here, numbers, render, settings_rows, write
from llmforge.run import journal
from llmforge.run.folder import RunFolder
from llmforge.track.curve import panels

APART = (
    *("steps", "seconds", "attempts", "tokens_per_second"),
    *("trainable_parameters", "total_parameters"),
)
"""Numbers of a result that stand on top of the page, not among its figures."""


def write_run_page(folder: str | Path, target: Path | None = None) -> Path:
    """Write the page of a run folder.

    Raises:
        FileNotFoundError: it is no run folder.
        PlanUnreadable: its plan is of another version.
        OSError: the page could not be written.
    """
    run = RunFolder.open(folder)
    return write(run_page(run), target or run.path / NAME)


def run_page(run: RunFolder) -> str:
    """The page as text."""
    plan, record = run.plan(), run.record()
    result = run.result() or {}
    found = [*plan.findings, *record.warnings]
    told = [one for one in found if one.get("severity") != "note"]
    if record.diagnostic:
        told.append(dict(record.diagnostic))
    samples = run.read_json("samples.json")
    return render(
        "run.html.jinja",
        run_id=run.run_id,
        status=record.status.value,
        updated=record.updated[:16].replace("T", " "),
        code=record.code,
        reason=record.reason,
        fingerprint=plan.fingerprint,
        sweep=run.path.parent.name if (run.path.parent / "sweep.json").is_file() else "",
        tiles=list(_tiles(plan, result)),
        curves=list(_curves(run)),
        figures=list(_figures(result)),
        samples=[{**_EMPTY, **one} for one in samples] if isinstance(samples, list) else [],
        data=list(_data(run.read_json("prepare.json") or {})),
        packing=_packing(run.read_json("prepare.json") or {}),
        memory=_memory(plan, result),
        warnings=[{"notes": (), "hint": None, **one} for one in told],
        commands=list(_commands(plan, run)),
        settings=settings_rows(plan),
        machine=_machine(run.read_json("environment.json") or {}),
    )


_EMPTY = {"prompt": "", "answer": "", "reference": "", "match": None}


def _tiles(plan: Plan, result: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in ("eval_loss", "train_loss", "exact_match"):
        if name in result:
            yield name, figure(result[name])
    if "steps" in result:
        yield f"of {figure(plan.estimate.get('steps'))} steps", figure(result["steps"])
    if "seconds" in result:
        yield "training and evaluation", _duration(float(result["seconds"]))
    if "tokens_per_second" in result:
        yield "tokens a second", figure(round(float(result["tokens_per_second"])))
    total, trained = (plan.estimate.get(f"{n}_parameters") for n in ("total", "trainable"))
    if total:
        yield f"of {figure(total)} parameters trained", figure(trained or total)


def _curves(run: RunFolder) -> Iterator[tuple[Markup, list[str]]]:
    """The panels of `curve.png`, each with the names of its lines."""
    for panel in panels(journal.history(run.journal)):
        lines = [
            drawing.Line(name, points, series=number % 5, marks=name != "training")
            for number, (name, points) in enumerate(panel.lines.items())
        ]
        picture = drawing.lines(panel.label, lines)
        if picture:
            yield picture, list(panel.lines)


def _figures(result: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Name, value of the untrained model, value of the trained one."""
    before = result.get("baseline") or {}
    for name, value in numbers(result).items():
        if name not in APART:
            yield name, figure(before.get(name)), figure(value)


def _data(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if "train" not in report:
        return
    sets = (report.get("evaluation") or {}).get("sets", {})
    for name, side in (("training", report["train"]), *sets.items()):
        why = ", ".join(f"{n:,} {reason.replace('_', ' ')}" for reason, n in
                        side.get("rejected", {}).items())  # fmt: skip
        counts = (side["rows"], side["used"], side["rows"] - side["used"], side["samples"])
        yield {
            "name": name,
            "counts": (*counts, side["tokens"], side["tokens_trained"]),
            "why": why or "none",
        }


def _packing(report: Mapping[str, Any]) -> str:
    found = report.get("packing")
    if not found:
        return ""
    return (
        f"{found['packs']:,} rows of {found['capacity']:,} tokens after packing, "
        f"{found['efficiency']:.1%} full."
    )


def _memory(plan: Plan, result: Mapping[str, Any]) -> dict[str, str]:
    """Foretold beside measured peak of one device; empty where neither is known."""
    sheet = plan.estimate.get("memory") or {}
    measured = (result.get("memory") or {}).get("measured_bytes")
    ranks = result.get("memory_by_rank") or []
    if not sheet and not measured:
        return {}
    foretold = sheet.get("peak_bytes")
    return {
        "foretold": size_text(int(foretold)) if foretold else "unknown",
        "measured": size_text(int(measured)) if measured else _resident(ranks),
        "phase": f"The worst moment is foretold for the {sheet['peak_phase']} phase."
        if "peak_phase" in sheet
        else "",
    }


def _resident(ranks: Sequence[Mapping[str, Any]]) -> str:
    """What is known where no device was measured."""
    if not ranks:
        return "not measured on this device"
    most = max(int(told["measured_bytes"]) for told in ranks)
    return f"{size_text(most)} resident in main memory, libraries included"


def _commands(plan: Plan, run: RunFolder) -> Iterator[tuple[str, str]]:
    place = shlex.quote(from_here(run.path))
    own = [text for text in plan.overrides if not text.startswith("paths.runs=")]
    yield "The same settings, to be changed", f"llmforge train {shlex.join(own)}".rstrip()
    yield "Train this once more, and compare", f"llmforge train --run {place}"
    if run.manifest.is_file():
        yield "Measure it again", f"llmforge evaluate --run {place}"
        yield "Ask it", f'llmforge generate "Your question" --run {place}'
        if plan.settings["lora"]["kind"] not in ("none", "prompt", "prefix"):
            yield "Merge its adapter, with proof", f"llmforge fuse --run {place}"
        yield (
            "In Python",
            (f"import llmforge\nmodel, tokenizer = llmforge.load({from_here(run.path)!r})"),
        )


def _machine(environment: Mapping[str, Any]) -> str:
    packages = environment.get("packages", {})
    named = ", ".join(f"{name} {text}" for name, text in packages.items())
    parts = [environment.get("platform"), f"Python {environment['python']}" if "python" in
             environment else None, named]  # fmt: skip
    return " · ".join(str(part) for part in parts if part)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 120 else f"{minutes / 60:.1f} h"
