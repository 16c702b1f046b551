"""Verbs that run a stage of a plan: prepare, train.

In: overrides, or a saved plan, or an earlier run. Out: what the stage leaves in the run folder.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from llmforge.verbs import EXIT_DONE, MakeVerb, compiled, run_stage, tell

if TYPE_CHECKING:
    from llmforge.run.folder import RunFolder


def add(verb: MakeVerb) -> None:
    """Declare the verbs of this module."""
    prepare = verb("prepare", _prepare, "make and store the tokenised data, and report on them")
    prepare.composed().planned()
    prepare.flag("--preview", type=int, default=0, metavar="N", help="show N samples with masks")

    train = verb("train", _train, "run a plan; with nothing else, the built-in example")
    train.composed().planned()


def _prepare(parsed: argparse.Namespace) -> int:
    from llmforge.refs import plan_to_run
    from llmforge.run.bases import check_base
    from llmforge.run.launch import run_plan
    from llmforge.run.ready import prepared_report
    from llmforge.run.terminal import Screen
    from llmforge.stages import report as rows

    plan = plan_to_run(parsed) or compiled(parsed)
    report = None if parsed.preview else prepared_report(plan)
    if report is not None:
        Screen(sys.stdout, sys.stderr).tell(rows.tell(report))
        return EXIT_DONE
    check_base(plan)  # its tokenizer lies with its weights
    outcome = run_plan(plan, "prepare", preview=parsed.preview)
    if outcome.diagnostic is not None:
        tell([outcome.diagnostic])
    return outcome.exit_code


def _train(parsed: argparse.Namespace) -> int:
    from llmforge.refs import plan_to_run
    from llmforge.refs.records import again

    repeated = again(parsed.ref) if parsed.ref and not (parsed.plan or parsed.overrides) else None
    saved = repeated.plan if repeated else plan_to_run(parsed)
    outcome = run_stage(parsed, "train", saved)
    if repeated and repeated.before and outcome.result is not None:
        _told_again(repeated.before, outcome.folder, parsed.config_dirs)
    return outcome.exit_code


def _told_again(before: RunFolder, folder: Path, config_dirs: Sequence[str]) -> None:
    """Whether a re-run came out as the first time."""
    from llmforge import render
    from llmforge.run.folder import RunFolder
    from llmforge.run.repeat import compare

    found = compare(before, RunFolder(folder), config_dirs)
    render.emit(f"\n{found.text()}")
    tell(found.findings())
