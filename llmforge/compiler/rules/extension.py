"""Components of the user's own beside what llmforge reports itself."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic

_REPORTED = ("loss", "perplexity", "tokens", "samples", "runtime")
"""What an evaluation reports by itself, as `eval_loss`, ..."""


@rule("LF126", "metric name that is taken")
def metric_name_taken(context: Context) -> Iterator[Diagnostic]:
    """Figures of an evaluation are `eval_<name>`, of one set `eval_<set>_<name>`.

    A metric whose name is one that evaluation reports itself, or begins with an evaluation set's,
    would stand in the place of another figure.
    """
    sets = context.facts.data.sets if context.facts.data else {}
    for name in context.spec.metrics:
        if name in _REPORTED or any(f"{name}_".startswith(f"{other}_") for other in sets):
            yield Diagnostic(
                "LF126",
                f"metric `{name}` would be reported as `eval_{name}`, which is taken",
                key=f"metrics.{name}.kind",
                notes=("evaluation reports its loss, and each evaluation set, under these names",),
                hint=f"write `own_{name}` for `{name}`",
            )
