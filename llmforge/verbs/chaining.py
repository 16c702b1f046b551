"""The verb run: every stage that a plan asks for, each skipped where it is finished.

In: overrides, or a saved plan, or an earlier run; first and last stage. Out: what the stages leave
in the run folder, `chain.json` with what came of each, a table.
"""

from __future__ import annotations

import argparse

from llmforge.verbs import MakeVerb, compiled, tell


def add(verb: MakeVerb) -> None:
    """Declare the verb."""
    from llmforge.stage_order import STAGES

    made = verb("run", _run, "prepare, train, evaluate, fuse, quantize: what the plan asks for")
    made.composed().planned()
    made.flag("--from", dest="start", choices=STAGES, help="first stage; earlier ones are there")
    made.flag("--to", dest="end", choices=STAGES, help="last stage")


def _run(parsed: argparse.Namespace) -> int:
    from llmforge.refs import plan_to_run
    from llmforge.run.chain import run_chain

    saved = plan_to_run(parsed)
    plan = saved or compiled(parsed)
    again = None if saved else lambda: compiled(parsed)
    outcome = run_chain(plan, again, parsed.start, parsed.end)
    tell(outcome.found)
    return outcome.exit_code
