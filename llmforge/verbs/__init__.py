"""The verbs of the command line: one module for each family of them.

In: a function that makes a verb's parser. Out: parsers with their flags, each with the function
that does the verb. What stands here is what verbs share: sets of flags, how findings are told, how
overrides become a plan. A verb imports what it needs when it is called; a module of this package
imports nothing heavy.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmforge.plan import Plan
    from llmforge.run.launch import Outcome

EXIT_DONE, EXIT_FAILED, EXIT_REFUSED, EXIT_INTERRUPTED = 0, 1, 2, 130

OVERRIDES_HELP = "Hydra overrides: group=option, key=value, +new=value, ~gone"

Run = Callable[[argparse.Namespace], int]
"""What a verb does: parsed arguments in, exit code out."""


class Verb:
    """A verb's parser with the flag sets that several verbs share."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self.parser = parser

    def flag(self, *names: str, **options: object) -> Verb:
        self.parser.add_argument(*names, **options)  # type: ignore[arg-type]
        return self

    def directories(self) -> Verb:
        return self.flag(
            "--config-dir", dest="config_dirs", action="append", default=[], metavar="FOLDER",
            help="your own options; they win over shipped ones of the same name",
        )  # fmt: skip

    def composed(self) -> Verb:
        return self.flag("overrides", nargs="*", help=OVERRIDES_HELP).directories()

    def planned(self) -> Verb:
        self.flag("--plan", metavar="FILE", help="run exactly this saved plan")
        return self.flag("--run", dest="ref", metavar="REF", help="run the plan of an earlier run")


MakeVerb = Callable[[str, Run, str], Verb]
"""Adds a verb: its name, what it does, one line of help."""


def tell(found: Sequence[object], form: str = "text") -> None:
    """Findings on the terminal; as text they go to stderr."""
    from llmforge import render

    write = {"json": render.findings_json, "github": render.findings_github}.get(form)
    if write is not None:
        render.emit(write(found))  # type: ignore[arg-type]
        return
    colour = render.wants_colour(sys.stderr)
    text = render.findings_text(found, colour)  # type: ignore[arg-type]
    if text:
        render.emit(text, sys.stderr)


def compiled(parsed: argparse.Namespace, *more: str) -> Plan:
    """Compile the overrides; warnings go to stderr, errors raise `ConfigRefused`."""
    from llmforge.compiler.passes import check, freeze
    from llmforge.diagnostics import refuse_on_error

    checked = check([*parsed.overrides, *more], parsed.config_dirs)
    refuse_on_error(checked.diagnostics)
    tell(checked.diagnostics)
    assert checked.context is not None  # noqa: S101 - no error means every pass ran
    return freeze(checked.context, checked.origins, checked.diagnostics, checked.draft.overrides)


def run_stage(parsed: argparse.Namespace, stage: str, saved: Plan | None) -> Outcome:
    """Run a stage of a saved plan, or of the overrides; what is wrong is told."""
    from llmforge.run.ready import run_ready

    plan = saved or compiled(parsed)
    outcome = run_ready(plan, None if saved else lambda: compiled(parsed), stage)
    if outcome.diagnostic is not None:
        tell([outcome.diagnostic])
    return outcome
