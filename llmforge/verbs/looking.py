"""Verbs that look and change no run: runs, report, ui, list, schema, doctor.

In: folders, groups. Out: tables, pages, JSON Schemas.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from llmforge.verbs import EXIT_DONE, EXIT_FAILED, MakeVerb, compiled, tell

if TYPE_CHECKING:
    from pathlib import Path


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    runs = verb("runs", _runs, "list runs and trials of sweeps; filter, sort, choose columns")
    runs.flag("--runs", dest="folder", default="runs", metavar="FOLDER")
    runs.flag("--sweeps", metavar="FOLDER", help="folder of sweeps; default: multirun beside runs")
    runs.flag("--status", metavar="STATUS", help="finished, failed, interrupted, running, ...")
    runs.flag("--sweep", metavar="NAME", help="trials of this sweep only; or the start of one")
    runs.flag(
        "--where", action="append", default=[], metavar="FILTER",
        help="on figures and settings: 'eval_loss<2 and optimizer.lr>1e-4'; may be repeated",
    )  # fmt: skip
    runs.flag("--sort", metavar="NAME", help="by a column; --sort=-NAME for the largest first")
    runs.flag("--columns", metavar="NAMES", help="a,b,c shows these; +a adds one")
    runs.flag("--limit", type=int, metavar="N").flag("--json", action="store_true")

    report = verb("report", _report, "write one HTML page on a sweep or a run")
    report.flag("ref", nargs="?", default="last", metavar="SWEEP|RUN", help="default: newest")
    report.flag("-o", "--output", metavar="FILE", help="default: report.html in its folder")
    report.flag("--runs", dest="folder", default="runs", metavar="FOLDER")

    ui = verb("ui", _ui, "open the MLflow UI on loopback").composed()
    ui.flag("--port", type=int, default=5000)

    options = verb("list", _list, "groups, or the options of one").directories()
    options.flag("group", nargs="?", metavar="GROUP")

    schema = verb("schema", _schema, "JSON Schema of the configuration, for editors")
    schema.flag("-o", "--output", metavar="FOLDER", help="write one file per group")

    doctor = verb("doctor", _doctor, "what this machine has, and what llmforge misses").composed()
    doctor.flag("--launch", action="store_true", help="a tiny job on every node of the plan")


def _runs(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    from llmforge import render
    from llmforge.run.ledger import SWEEPS
    from llmforge.run.listing import Asked, runs_text

    names = ("where", "status", "sweep", "sort", "columns", "limit")
    asked = Asked(**{name: getattr(parsed, name) for name in names})
    sweeps = Path(parsed.sweeps) if parsed.sweeps else None
    render.emit(runs_text(Path(parsed.folder), sweeps, asked, parsed.json))
    _settle(sweeps or Path(parsed.folder).parent / SWEEPS)
    return EXIT_DONE


def _settle(sweeps: Path) -> None:
    """Whoever looks ends the runs in MLflow that killed drivers of sweeps left open."""
    import sys

    from llmforge import render
    from llmforge.sweep.recorder import settle_all

    for line in settle_all(sweeps):
        render.emit(line, sys.stderr)


def _report(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    from llmforge import render
    from llmforge.report.writing import write_report
    from llmforge.run.ledger import SWEEPS

    target = Path(parsed.output) if parsed.output else None
    render.emit(str(write_report(parsed.ref, Path(parsed.folder), target)))
    _settle(Path(parsed.folder).parent / SWEEPS)
    return EXIT_DONE


def _ui(parsed: argparse.Namespace) -> int:
    from llmforge.diagnostics import ConfigRefused, Diagnostic
    from llmforge.track.ui import serve

    plan = compiled(parsed)
    tracking = plan.settings["tracking"]
    if tracking["kind"] != "mlflow":
        raise ConfigRefused(
            [
                Diagnostic(
                    "LF702",
                    "there is no MLflow UI without MLflow",
                    key="tracking.kind",
                    origins=plan.origins.chain("tracking.kind"),
                    hint="tracking=mlflow",
                )
            ]
        )
    return serve(tracking["uri"], port=parsed.port)


def _list(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.explain import list_group, list_groups
    from llmforge.sweep import launchers

    if parsed.group == launchers.GROUP:
        head = (launchers.GROUP, "needs", "what it is")
        render.emit(render.table(launchers.listed(), head))
        return EXIT_DONE
    render.emit(
        list_group(parsed.group, parsed.config_dirs)
        if parsed.group
        else list_groups(parsed.config_dirs)
    )
    return EXIT_DONE


def _schema(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.schema.export import schemas_json, write_schemas

    if parsed.output:
        for path in write_schemas(parsed.output):
            render.emit(str(path))
    else:
        render.emit(schemas_json())
    return EXIT_DONE


def _doctor(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.doctor import examine

    if parsed.launch:
        return _doctor_of_nodes(parsed)
    if parsed.overrides:
        raise SystemExit("llmforge doctor: overrides say which nodes; add --launch")
    text, healthy = examine()
    render.emit(text)
    return EXIT_DONE if healthy else EXIT_FAILED


def _doctor_of_nodes(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.run.starting import probing

    plan = compiled(parsed)
    found, outcome = probing.probe_nodes(plan)
    if found is None:
        if outcome.diagnostic is not None:
            tell([outcome.diagnostic])
        return outcome.exit_code
    render.emit(probing.report(found))
    wrong = list(probing.findings(plan, found))
    tell(wrong)
    return EXIT_FAILED if any(finding.is_error for finding in wrong) else EXIT_DONE
