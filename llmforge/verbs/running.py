"""Verbs that run a stage of a plan: prepare, train, evaluate.

In: overrides, or a saved plan, or an earlier run. Out: what the stage leaves in the run folder.
"""

from __future__ import annotations

import argparse
import sys

from llmforge.verbs import EXIT_DONE, MakeVerb, compiled, tell


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    prepare = verb("prepare", _prepare, "make and store the tokenised data, and report on them")
    prepare.composed().planned()
    prepare.flag("--preview", type=int, default=0, metavar="N", help="show N samples with masks")

    for name, text in (
        ("train", "run a plan; with nothing else, the built-in example"),
        ("evaluate", "measure a finished run again"),
    ):
        verb(name, _stage, text).composed().planned()


def _prepare(parsed: argparse.Namespace) -> int:
    from llmforge.refs import plan_to_run
    from llmforge.run.launch import run_plan
    from llmforge.run.ready import prepared_report
    from llmforge.run.terminal import Screen
    from llmforge.stages import report as rows

    plan = plan_to_run(parsed) or compiled(parsed)
    report = None if parsed.preview else prepared_report(plan)
    if report is not None:
        Screen(sys.stdout, sys.stderr).tell(rows.tell(report))
        return EXIT_DONE
    outcome = run_plan(plan, "prepare", preview=parsed.preview)
    if outcome.diagnostic is not None:
        tell([outcome.diagnostic])
    return outcome.exit_code


def _stage(parsed: argparse.Namespace) -> int:
    from llmforge.refs import plan_to_run
    from llmforge.run.launch import run_plan
    from llmforge.run.preflight import check_here
    from llmforge.run.ready import NotPrepared, settle

    saved = plan_to_run(parsed)
    plan = saved or compiled(parsed)
    check_here(plan)
    try:
        plan = settle(plan, None if saved else lambda: compiled(parsed))
        outcome = run_plan(plan, parsed.verb)
    except NotPrepared as failed:
        outcome = failed.outcome
    if outcome.diagnostic is not None:
        tell([outcome.diagnostic])
    return outcome.exit_code
