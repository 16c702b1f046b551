"""Measure a run's final model once more: the `evaluate` stage by itself.

In: a plan and a run folder with a final model. Out: the figures. The model is built as for
training, so precision, device and processes are the plan's, and takes the final weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder


def evaluate_again(plan: Plan, run: RunFolder) -> dict[str, Any]:
    """Figures and samples of the final model. The experiment's hooks of building are called.

    Raises:
        LookupError: the run has no final model.
    """
    if not run.manifest.is_file():
        raise LookupError(f"run {run.run_id} is {run.status().value}: it has no final model")
    from llmforge.build.experiment import activated
    from llmforge.build.parts import build_parts
    from llmforge.build.trainer import build_trainer
    from llmforge.stages.evaluate import evaluate
    from llmforge.stages.prepare import prepare

    with activated(plan) as hooks, tempfile.TemporaryDirectory() as scratch:
        hooks.call("at_beginning")
        with hooks.around("checks"):
            prepared = prepare(plan)
        parts = build_parts(plan, prepared)
        trainer = build_trainer(plan, parts, Path(scratch), [])
        trainer._load_from_checkpoint(str(run.model))  # noqa: SLF001 - loads weights and adapters alike, onto the device
        figures = evaluate(plan, parts, trainer)
        hooks.call("at_end")
        return figures
