"""The command line: verbs, their flags, exit codes. Nothing heavy is imported to parse it.

In: argv. Out: an exit code (0 done, 1 run failed, 2 config refused, 130 interrupted). Each verb is
one function that imports what it needs; what a verb does lives elsewhere.

Hydra's own flags (`-m`, `--cfg`, `--info`, `-sc`, ...) behind `train` go to `app.py`, the one
Hydra application.
"""

from __future__ import annotations

import argparse
import gc
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmforge.compiler.passes import Checked
    from llmforge.plan import Plan

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED = 0, 1, 2, 130

OVERRIDES_HELP = "Hydra overrides: group=option, key=value, +new=value, ~gone"

_HYDRA_FLAGS = frozenset(
    ("-m", "--multirun", "-c", "--cfg", "-i", "--info", "-p", "--package", "--resolve",
     "-sc", "--shell-completion", "--hydra-help")
)  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point of the `llmforge` script."""
    # a compile makes many small objects and frees few: the collector would cost a tenth of it
    gc.set_threshold(50_000, 20, 20)
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["-sc"] or args[:1] == ["--shell-completion"]:
        from llmforge.app import complete

        return complete(args)
    if args[:1] == ["train"] and _HYDRA_FLAGS.intersection(a.partition("=")[0] for a in args):
        from llmforge.app import hydra_train

        return hydra_train(args[1:])
    parsed, rest = _parser().parse_known_args(args)
    if parsed.verb is None:
        _parser().print_help()
        return EXIT_DONE
    # `parse_known_args` leaves overrides that follow a flag; anything with a dash is a mistake
    unknown = [word for word in rest if word.startswith("-")]
    if unknown:
        _parser().error(f"unknown flag {unknown[0]}; see llmforge {parsed.verb} --help")
    if hasattr(parsed, "overrides"):
        parsed.overrides = [*parsed.overrides, *rest]
    elif rest:
        _parser().error(f"unexpected argument {rest[0]}")
    return _guarded(parsed)


def _guarded(parsed: argparse.Namespace) -> int:
    run: Callable[[argparse.Namespace], int] = parsed.run
    from llmforge.diagnostics import ConfigRefused

    try:
        return run(parsed)
    except ConfigRefused as refusal:
        _tell(refusal.diagnostics, getattr(parsed, "format", "text"))
        return EXIT_REFUSED
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    from llmforge.version import __version__

    parser = argparse.ArgumentParser(
        prog="llmforge",
        description="Compile first, then train: fine-tuning of language models as checked plans.",
        epilog="llmforge train, with nothing else, runs the built-in example.",
    )
    parser.add_argument("--version", action="version", version=f"llmforge {__version__}")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", title="verbs")

    def verb(name: str, run: Callable[[argparse.Namespace], int], text: str) -> _Verb:
        made = verbs.add_parser(name, help=text, description=text)
        made.set_defaults(run=run)
        return _Verb(made)

    plan = verb("plan", _plan, "compile and print: settings, origins, estimate, findings")
    plan.composed()
    plan.flag("-o", "--output", metavar="FILE", help="save it; train --plan FILE runs exactly it")
    plan.flag("--json", action="store_true", help="the whole plan as JSON")
    plan.flag("--for", dest="hardware", metavar="hardware=NAME", help="for another machine")
    plan.flag(
        "--fit", action="append", default=[], metavar="KEY",
        help="the largest value that fits: trainer.micro_batch, collator.max_length, lora.r",
    )  # fmt: skip
    plan.flag("-v", "--verbose", action="store_true", help="facts and lowered keywords as well")

    check = verb("check", _check, "findings only; exit 2 if refused").composed()
    check.flag("--format", choices=("text", "json", "github"), default="text")

    explain = verb("explain", _explain, "a KEY's value, origins, readers; or what a CODE means")
    explain.flag("subject", metavar="KEY|CODE").composed()

    diff = verb("diff", _diff, "what differs between two plans, runs or quoted override sets")
    diff.flag("before", metavar="A", help="plan file, run, or 'overrides in quotes'")
    diff.flag("after", metavar="B").flag("--json", action="store_true").directories()

    prepare = verb("prepare", _prepare, "make and store the tokenised data, and report on them")
    prepare.composed().planned()
    prepare.flag("--preview", type=int, default=0, metavar="N", help="show N samples with masks")

    for name, text in (
        ("train", "run a plan; with nothing else, the built-in example"),
        ("evaluate", "measure a finished run again"),
    ):
        verb(name, _stage, text).composed().planned()

    generate = verb("generate", _generate, "answer a prompt with a trained model")
    generate.flag("prompt", metavar="PROMPT").composed()
    generate.flag("--run", dest="ref", default="last", metavar="REF", help="run; default: newest")

    runs = verb("runs", _runs, "list runs")
    runs.flag("--runs", dest="folder", default="runs").flag("--json", action="store_true")

    ui = verb("ui", _ui, "open the MLflow UI on loopback").composed()
    ui.flag("--port", type=int, default=5000)

    options = verb("list", _list, "groups, or the options of one").directories()
    options.flag("group", nargs="?", metavar="GROUP")

    schema = verb("schema", _schema, "JSON Schema of the configuration, for editors")
    schema.flag("-o", "--output", metavar="FOLDER", help="write one file per group")

    verb("doctor", _doctor, "what this machine has, and what llmforge misses")
    return parser


class _Verb:
    """A verb's parser with the flag sets that several verbs share."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser

    def flag(self, *names: str, **options: object) -> _Verb:
        self.parser.add_argument(*names, **options)  # type: ignore[arg-type]
        return self

    def directories(self) -> _Verb:
        return self.flag(
            "--config-dir", dest="config_dirs", action="append", default=[], metavar="FOLDER",
            help="your own options; they win over shipped ones of the same name",
        )  # fmt: skip

    def composed(self) -> _Verb:
        return self.flag("overrides", nargs="*", help=OVERRIDES_HELP).directories()

    def planned(self) -> _Verb:
        self.flag("--plan", metavar="FILE", help="run exactly this saved plan")
        return self.flag("--run", dest="ref", metavar="REF", help="run the plan of an earlier run")


def _tell(found: Sequence[object], form: str = "text") -> None:
    from llmforge import render

    write = {"json": render.findings_json, "github": render.findings_github}.get(form)
    if write is not None:
        render.emit(write(found))  # type: ignore[arg-type]
        return
    colour = render.wants_colour(sys.stderr)
    text = render.findings_text(found, colour)  # type: ignore[arg-type]
    if text:
        render.emit(text, sys.stderr)


def _compiled(parsed: argparse.Namespace, *more: str) -> Plan:
    """Compile the overrides; warnings go to stderr, errors raise `ConfigRefused`."""
    from llmforge.compiler.passes import check, freeze
    from llmforge.diagnostics import refuse_on_error

    checked = check([*parsed.overrides, *more], parsed.config_dirs)
    refuse_on_error(checked.diagnostics)
    _tell(checked.diagnostics)
    assert checked.context is not None  # noqa: S101 - no error means every pass ran
    return freeze(checked.context, checked.origins, checked.diagnostics, checked.draft.overrides)


def _plan(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.compiler.passes import check, freeze

    extra = []
    if parsed.hardware:
        extra = [parsed.hardware if "=" in parsed.hardware else f"hardware={parsed.hardware}"]
    checked = check([*parsed.overrides, *extra], parsed.config_dirs)
    _tell(checked.diagnostics)
    answers = _fits(checked, parsed.fit)
    if checked.refused or checked.context is None:
        if answers:
            render.emit(answers)
        return EXIT_REFUSED
    plan = freeze(checked.context, checked.origins, checked.diagnostics, checked.draft.overrides)
    if parsed.output:
        plan.save(parsed.output)
    if parsed.json:
        render.emit(plan.to_json().rstrip())
        if answers:  # not a part of the plan
            render.emit(answers, sys.stderr)
        return EXIT_DONE
    render.emit(render.plan_text(plan, parsed.verbose))
    if answers:
        render.emit(f"\n{answers}")
    if parsed.output:
        render.emit(f"\nsaved to {parsed.output}; run it: llmforge train --plan {parsed.output}")
    return EXIT_DONE


def _fits(checked: Checked, keys: Sequence[str]) -> str:
    """Answers of `--fit`; a plan that is refused for its memory alone is asked as well."""
    if not keys or any(d.is_error and d.code != "LF209" for d in checked.diagnostics):
        return ""
    from llmforge.compiler.memory.fit import CannotFit, fit
    from llmforge.diagnostics import ConfigRefused, Diagnostic

    assert checked.context is not None  # noqa: S101 - no other error means every pass ran
    try:
        batch = checked.origins.chain("trainer.global_batch")
        free = bool(batch) and batch[-1].kind == "derived"
        return "\n".join(str(fit(checked.context, key, free)) for key in keys)
    except CannotFit as error:
        hint = "--fit trainer.micro_batch" if checked.context.facts.model else None
        raise ConfigRefused([Diagnostic("LF210", str(error), hint=hint)]) from error


def _check(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.compiler.passes import check

    checked = check(parsed.overrides, parsed.config_dirs)
    _tell(checked.diagnostics, parsed.format)
    if not checked.diagnostics and parsed.format == "text":
        render.emit("no findings")
    return EXIT_REFUSED if checked.refused else EXIT_DONE


def _explain(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.explain import explain

    render.emit(explain(parsed.subject, parsed.overrides, parsed.config_dirs))
    return EXIT_DONE


def _diff(parsed: argparse.Namespace) -> int:
    import json

    from llmforge import render
    from llmforge.diff import diff, diff_text
    from llmforge.refs import plan_of

    found = diff(
        plan_of(parsed.before, parsed.config_dirs), plan_of(parsed.after, parsed.config_dirs)
    )
    render.emit(json.dumps(found.to_dict(), indent=2) if parsed.json else diff_text(found))
    return EXIT_DONE


def _prepare(parsed: argparse.Namespace) -> int:
    from llmforge.refs import plan_to_run
    from llmforge.run.launch import run_plan
    from llmforge.run.ready import prepared_report
    from llmforge.run.terminal import Screen
    from llmforge.stages.report import tell

    plan = plan_to_run(parsed) or _compiled(parsed)
    report = None if parsed.preview else prepared_report(plan)
    if report is not None:
        Screen(sys.stdout, sys.stderr).tell(tell(report))
        return EXIT_DONE
    outcome = run_plan(plan, "prepare", preview=parsed.preview)
    if outcome.diagnostic is not None:
        _tell([outcome.diagnostic])
    return outcome.exit_code


def _stage(parsed: argparse.Namespace) -> int:
    from llmforge.refs import plan_to_run
    from llmforge.run.launch import run_plan
    from llmforge.run.preflight import check_here
    from llmforge.run.ready import NotPrepared, settle

    saved = plan_to_run(parsed)
    plan = saved or _compiled(parsed)
    check_here(plan)
    try:
        plan = settle(plan, None if saved else lambda: _compiled(parsed))
        outcome = run_plan(plan, parsed.verb)
    except NotPrepared as failed:
        outcome = failed.outcome
    if outcome.diagnostic is not None:
        _tell([outcome.diagnostic])
    return outcome.exit_code


def _generate(parsed: argparse.Namespace) -> int:
    from llmforge.refs import generate

    return generate(parsed.ref, parsed.prompt, parsed.overrides, parsed.config_dirs)


def _runs(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.refs import runs_table

    render.emit(runs_table(parsed.folder, parsed.json))
    return EXIT_DONE


def _ui(parsed: argparse.Namespace) -> int:
    from llmforge.diagnostics import ConfigRefused, Diagnostic
    from llmforge.track.ui import serve

    plan = _compiled(parsed)
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


if __name__ == "__main__":
    sys.exit(main())
