"""Schema of how answers are generated.

In: nothing. Out: `GenerationSpec`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmforge.schema.base import (
    Effect,
    PositiveInt,
    Spec,
)


class GenerationSpec(Spec):
    """How answers are generated (`llmforge generate`, sample answers)."""

    effect = Effect.EVALUATION

    max_new_tokens: PositiveInt
    """Longest answer in tokens."""
    sample: bool
    """Draw from the distribution; false is greedy. Exact match is always greedy."""
    temperature: Annotated[float, Field(gt=0.0)]
    """Divides the logits before sampling: below 1 is more certain, above 1 more varied."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    """Draw from the fewest tokens whose probabilities reach this sum; 1 draws from all."""
    repetition_penalty: Annotated[float, Field(gt=0.0)]
    """Divides the logits of tokens that were used already; 1 is off."""
