"""Schema of the section `quantize`: a finished model with fewer bits, and what that may cost.

In: nothing. Out: the specs by kind. Not to be confused with `quantization`, which packs the frozen
base of a training.
"""

from __future__ import annotations

from typing import Annotated, Literal

from llmforge.registry import register
from llmforge.schema.base import Effect, NonNegativeFloat, Spec


class QuantizeSpec(Spec):
    """What all ways of quantizing have."""

    effect = Effect.QUANTIZE

    kind: str


@register("quantize", "none")
class NoQuantize(QuantizeSpec):
    """The model stays as it is."""

    kind: Literal["none"]


class Quantizing(QuantizeSpec):
    """What all ways of really quantizing have."""

    folder: Annotated[str | None, Effect.BOOKKEEPING]
    """Where to; null is `quantized/` in the run folder."""
    max_perplexity_growth: NonNegativeFloat | None
    """Largest growth of perplexity on the evaluation rows: 0.1 lets 10 % pass; null lets any."""
