"""LF235: a learning rate that belongs to other weights.

In: a solved context. Out: findings. Which rate is usual for what is trained is
`derive/recipe.py`; rates that nobody or two set are batch arithmetic (`batch.py`).
"""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.recipe import pretrained, usual_rate
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity

_TOO_MANY_TIMES = 10.0
"""Published recipes lie within a few times of the usual rates; ten times is another kind of run."""
_DUST = 1e-9


@rule("LF235", "rate from scratch for pretrained weights")
def rate_from_scratch(context: Context) -> Iterator[Diagnostic]:
    """Weights that somebody has trained are near where they should be. A rate for random weights
    moves them so far in the first steps that what they knew is lost, and the loss looks as if the
    model was never pretrained.

    A warning; `optimizer.lr=auto` takes the usual rate for what is trained: all of the weights
    (`optimizer.lr_finetune`) or an adapter (`optimizer.lr_adapter`).
    """
    rate = context.spec.optimizer.lr
    if not isinstance(rate, float) or not pretrained(context):
        return
    key, why = usual_rate(context)
    usual = float(getattr(context.spec.optimizer, key.partition(".")[2]))
    if rate > _TOO_MANY_TIMES * usual * (1 + _DUST):
        yield Diagnostic(
            "LF235",
            f"a learning rate of {rate:g} is {rate / usual:.0f} times the usual one here",
            Severity.WARNING,
            key="optimizer.lr",
            notes=(f"{why}: `{key}` is {usual:g}",),
            hint="optimizer.lr=auto",
        )
