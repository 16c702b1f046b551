"""LF250: checkpoints that cannot be what is asked of them."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic
from llmforge.schema.base import seconds_of


@rule("LF250", "best checkpoint with saves by the clock")
def best_by_the_clock(context: Context) -> Iterator[Diagnostic]:
    """The best checkpoint is chosen by a metric that is measured at the moment of saving, so saves
    must fall on evaluations. Saves by the clock (`checkpoint.every=30min`) fall anywhere, and on
    another step the next time, so another model would be the best one.
    """
    spec = context.spec
    if spec.checkpoint.best is None or seconds_of(spec.checkpoint.every) is None:
        return
    every = spec.evaluation.every
    yield Diagnostic(
        "LF250",
        f"the best checkpoint by `{spec.checkpoint.best}` cannot be chosen from saves every "
        f"{spec.checkpoint.every}",
        key="checkpoint.every",
        notes=("saves by the clock do not fall on evaluations",),
        hint=f"checkpoint.every={every}" if isinstance(every, int) else "checkpoint.every=25%",
    )
