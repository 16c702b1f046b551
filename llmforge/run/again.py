"""Measure a run's model once more: the `evaluate` stage by itself.

In: a plan and a run folder with a final model, or with the checkpoint that a request names. Out:
the figures. The model is built as for training, so precision, device and processes are the plan's,
and takes those weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run import outcome
from llmforge.run.folder import RunFolder
from llmforge.run.measure import Request


def evaluate_again(plan: Plan, run: RunFolder, request: Request | None = None) -> dict[str, Any]:
    """Figures and samples of the final model. The experiment's hooks of building are called.

    Args:
        plan: how to measure.
        run: whose model.
        request: asks for other weights, or for benchmark tasks in place of held-out rows.

    On a GPU `memory` tells what was taken at most beside what the plan foretold.

    Raises:
        LookupError: the run has no final model.
    """
    if request is None and not run.manifest.is_file():
        raise LookupError(f"run {run.run_id} is {run.status().value}: it has no final model")
    from llmforge.build.experiment import activated
    from llmforge.build.parts import build_parts
    from llmforge.build.trainer import build_trainer
    from llmforge.stages.evaluate import evaluate
    from llmforge.stages.peaks import peak_memory
    from llmforge.stages.prepare import prepare

    with activated(plan) as hooks, tempfile.TemporaryDirectory() as scratch:
        hooks.call("at_beginning")
        with hooks.around("checks"):
            prepared = prepare(plan)
        parts = build_parts(plan, prepared)
        trainer = build_trainer(plan, parts, Path(scratch), [])
        weights = str(run.model) if request is None else request.model
        trainer._load_from_checkpoint(weights)  # noqa: SLF001 - loads weights and adapters alike, onto the device
        if request is not None and request.tasks:
            from llmforge.stages.benchmarks import run_tasks

            figures = run_tasks(
                plan, parts, trainer, request.tasks, request.folders, request.trusted
            )
        else:
            figures = evaluate(plan, parts, trainer)
            if memory := outcome.evaluation_memory(plan, peak_memory()):
                figures["memory"] = memory
        hooks.call("at_end")
        return figures
