"""What a run's own plan asks to be made of its model, once that is trained.

In: the plan of a finished run, the stage. Out: the outcome, whose result is the record. What is
asked by hand, of any model, goes by `refs/subjects.py` and the same orders.
"""

from __future__ import annotations

from llmforge.diagnostics import refuse_on_error
from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.launch import Outcome, run_making
from llmforge.run.making.fusing import fuse_order
from llmforge.run.making.quantizing import quantize_order
from llmforge.stage_order import Making


def make_after(plan: Plan, stage: Making, quiet: bool = False) -> Outcome:
    """Fuse or quantize the model of a finished run, or find it done.

    Raises:
        ConfigRefused: as `fuse_order` and `quantize_order`.
    """
    from llmforge.compiler.making import making

    run = RunFolder(plan.run_folder)
    made, found = making(plan)
    refuse_on_error(found)
    steps = int((run.result() or {}).get("steps", 0))
    if stage == "fuse":
        order = fuse_order(made, run, run.model, run.run_id, steps, plan)
    else:
        from llmforge.refs.models import find_model

        order = quantize_order(made, run, find_model(run.path), steps)
    return run_making(made, run, order, quiet)
