"""Schema of the section `hooks`: the experiment whose methods are called while a run is built.

In: nothing. Out: `ExperimentSpec`, which people's own specs inherit from, and the shipped kind
`none`. The hooks themselves stand in `build/experiment.py`.

The section is not called `experiment`: that is the group of overlays.
"""

from __future__ import annotations

from typing import Literal

from llmforge.registry import register
from llmforge.schema.base import Effect, Spec


class ExperimentSpec(Spec):
    """An experiment of one's own: its fields are the keywords that its class is made with.

    They change the samples (`Effect.DATA`), since an experiment may give keywords to the collator,
    unless a field is annotated with another effect.
    """

    effect = Effect.DATA

    kind: str


@register("hooks", "none")
class NoHooks(ExperimentSpec):
    """No hooks."""

    # a run without hooks is the run that it was before there were any
    effect = Effect.BOOKKEEPING

    kind: Literal["none"]
