"""What the verbs share that make something of a finished model: fuse, quantize, export.

In: their flags and overrides. Out: what was asked, as `refs/subjects.py` takes it; an order carried
out, or the record of the result that is there.
"""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from llmforge.verbs import tell

if TYPE_CHECKING:
    from llmforge.refs.subjects import Asked, Subject
    from llmforge.run.making.order import Order
    from llmforge.verbs import Verb

REF_HELP = "a run's id or `last`, a folder, models:/NAME/3, NAME@best, or OWNER/NAME on the hub"


def add_flags(made: Verb, source: str, folder: str) -> None:
    """Flags that say what is taken and where the result goes.

    Args:
        source: what is taken of a run: `model` or `adapter`.
        folder: of the result, in the run folder.
    """
    made.composed().flag("--plan", metavar="FILE", help=f"the {source} of this plan's run")
    made.flag("--run", dest="ref", metavar="REF", help=REF_HELP)
    made.flag("--checkpoint", metavar="best|last|STEP", help=f"of the run; default: final {source}")
    made.flag("-o", "--output", metavar="FOLDER", help=f"default: {folder}/ in the run folder")


def asked_of(parsed: argparse.Namespace, stage: str) -> Asked:
    """What the flags and overrides of a stage that makes something of a model say."""
    from llmforge.compiler.overlay import word
    from llmforge.refs import load_plan
    from llmforge.refs.subjects import Asked

    overrides = list(parsed.overrides)
    if parsed.output is not None:
        overrides.append(word(f"{stage}.folder", parsed.output))
    plan = load_plan(parsed.plan) if parsed.plan else None
    return Asked(parsed.ref, plan, parsed.checkpoint, tuple(overrides), tuple(parsed.config_dirs))


def say(text: str) -> None:
    """A notice on the way."""
    print(text, file=sys.stderr)


def make(subject: Subject, order: Order, done: str) -> int:
    """Carry an order out, or show the record of the result that is there.

    Args:
        done: what was done then: `merged`.
    """
    from llmforge.merging import replaced
    from llmforge.render import emit
    from llmforge.run.launch import run_making
    from llmforge.run.terminal import made

    if told := replaced(subject, order):
        say(told)
    outcome = run_making(subject.plan, subject.run, order)
    if outcome.diagnostic is not None:
        tell([outcome.diagnostic])
        return outcome.exit_code
    if outcome.reused and outcome.result is not None:
        say(f"it was {done} at {outcome.result['time']}; this is its record")
        emit(made(outcome.result))
    return outcome.exit_code
