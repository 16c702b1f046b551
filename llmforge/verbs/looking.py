"""Verbs that look and change nothing: runs, ui, list, schema, doctor.

In: folders, groups. Out: tables, pages, JSON Schemas.
"""

from __future__ import annotations

import argparse

from llmforge.verbs import EXIT_DONE, EXIT_FAILED, MakeVerb, compiled


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    runs = verb("runs", _runs, "list runs")
    runs.flag("--runs", dest="folder", default="runs").flag("--json", action="store_true")

    ui = verb("ui", _ui, "open the MLflow UI on loopback").composed()
    ui.flag("--port", type=int, default=5000)

    options = verb("list", _list, "groups, or the options of one").directories()
    options.flag("group", nargs="?", metavar="GROUP")

    schema = verb("schema", _schema, "JSON Schema of the configuration, for editors")
    schema.flag("-o", "--output", metavar="FOLDER", help="write one file per group")

    verb("doctor", _doctor, "what this machine has, and what llmforge misses")


def _runs(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.refs import runs_table

    render.emit(runs_table(parsed.folder, parsed.json))
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
