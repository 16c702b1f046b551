"""What `trainer.extra` is checked against: the installed `TrainingArguments`.

In: a spec. Out: the arguments as a fact, looked up only where something is to be checked. The
refusals are in `rules/arguments.py`.
"""

from __future__ import annotations

from pathlib import Path

from llmforge.compiler.context import Context, Step
from llmforge.compiler.facts.arguments import installed_arguments


def probe_arguments(context: Context) -> Step:
    """The arguments of the installed transformers, where `trainer.extra` has any."""
    if not context.spec.trainer.extra:
        return Step()
    return Step(facts={"arguments": installed_arguments(Path(context.spec.paths.cache))})
