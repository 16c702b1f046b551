"""Schema of evaluation: what is measured on held-out rows, and how often.

In: nothing. Out: `EvaluationSpec`. Intervals are steps, a share of the run (`10%`), `epoch`, or
null.
"""

from __future__ import annotations

from typing import Annotated

from llmforge.schema.base import (
    Auto,
    Effect,
    Interval,
    NonNegativeInt,
    PositiveInt,
    Spec,
)


class EvaluationSpec(Spec):
    """What is measured on held-out rows."""

    effect = Effect.EVALUATION

    every: Interval
    """How often during training; the end is always evaluated when there is evaluation data."""
    at_start: bool
    """Measure the untrained model as well, as the baseline."""
    micro_batch: Annotated[PositiveInt | Auto, Effect.SPEED]
    """Samples per device and forward pass in evaluation."""
    exact_match_rows: NonNegativeInt
    """Rows answered by greedy generation and compared with the reference answer; 0 turns it off."""
    samples: NonNegativeInt
    """Sample answers printed and logged at the end."""
