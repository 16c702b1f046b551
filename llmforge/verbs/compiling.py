"""Verbs that compile and never run: plan, check, explain, diff.

In: overrides, plan files, runs. Out: text or JSON, and exit code 2 for what is refused.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmforge.verbs import EXIT_DONE, EXIT_REFUSED, MakeVerb, tell

if TYPE_CHECKING:
    from llmforge.compiler.passes import Checked


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
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


def _plan(parsed: argparse.Namespace) -> int:
    from llmforge import render
    from llmforge.compiler.passes import check, freeze

    extra = []
    if parsed.hardware:
        extra = [parsed.hardware if "=" in parsed.hardware else f"hardware={parsed.hardware}"]
    checked = check([*parsed.overrides, *extra], parsed.config_dirs)
    tell(checked.diagnostics)
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
    if plan.settings["launch"]["kind"] == "slurm":
        from llmforge.run.starting.slurm import script

        render.emit(f"\njob script\n\n{script(plan)}")
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
    tell(checked.diagnostics, parsed.format)
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
