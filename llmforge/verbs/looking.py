"""Verbs that look and change nothing: runs, report, ui, list, schema, doctor.

In: folders, groups. Out: tables, pages, JSON Schemas.
"""

from __future__ import annotations

import argparse

from llmforge.verbs import EXIT_DONE, EXIT_FAILED, MakeVerb, compiled


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    runs = verb("runs", _runs, "list runs and trials of sweeps; filter, sort, choose columns")
    runs.flag("--runs", dest="folder", default="runs", metavar="FOLDER")
    runs.flag("--sweeps", metavar="FOLDER", help="folder of sweeps; default: multirun beside runs")
    runs.flag("--status", metavar="STATUS", help="finished, failed, interrupted, running, ...")
    runs.flag("--sweep", metavar="NAME", help="trials of this sweep only")
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

    verb("doctor", _doctor, "what this machine has, and what llmforge misses")


def _runs(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    from llmforge import render
    from llmforge.run.listing import Asked, runs_text

    names = ("where", "status", "sweep", "sort", "columns", "limit")
    asked = Asked(**{name: getattr(parsed, name) for name in names})
    sweeps = Path(parsed.sweeps) if parsed.sweeps else None
    render.emit(runs_text(Path(parsed.folder), sweeps, asked, parsed.json))
    return EXIT_DONE


def _report(parsed: argparse.Namespace) -> int:
    from pathlib import Path

    from llmforge import render
    from llmforge.report.writing import write_report

    target = Path(parsed.output) if parsed.output else None
    render.emit(str(write_report(parsed.ref, Path(parsed.folder), target)))
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


def _doctor(_parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.doctor import examine

    text, healthy = examine()
    render.emit(text)
    return EXIT_DONE if healthy else EXIT_FAILED
