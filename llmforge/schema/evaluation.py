"""Schema of evaluation: what is measured on held-out rows, how often, and when a run may end early.

In: nothing. Out: `EvaluationSpec`. Intervals are steps, a share of the run (`10%`), `epoch` or so
many epochs (`0.5 epoch`), or null.

Which metric counts, for the best checkpoint and for early stopping alike, is `checkpoint.best` with
`checkpoint.best_direction`: the two must never look at different ones.
"""

from __future__ import annotations

from typing import Annotated, Literal

from llmforge.schema.base import (
    Auto,
    Effect,
    Interval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Spec,
    Warmup,
)


class EvaluationSpec(Spec):
    """What is measured on held-out rows."""

    effect = Effect.EVALUATION

    every: Interval
    """How often during training; the end is always evaluated when there is evaluation data."""
    delay: Warmup
    """Optimizer steps, or a share of the run (`10%`), before the first evaluation during training:
    0 for none. What a model says while it warms up tells little."""
    at_start: bool
    """Measure the untrained model as well, as the baseline."""
    patience: Annotated[PositiveInt | None, Effect.NUMERICS]
    """Early stopping: the run ends after so many evaluations in a row that do not improve
    `checkpoint.best`; null is off. The final model is the best one."""
    min_improvement: Annotated[NonNegativeFloat, Effect.NUMERICS]
    """What counts as an improvement for early stopping: by more than this, in the metric's unit."""
    micro_batch: Annotated[PositiveInt | Auto, Effect.SPEED]
    """Samples per device and forward pass in evaluation."""
    answers: Literal["end", "always"]
    """When rows are answered, for exact match and metrics on text: at the `end` of the run (and
    before it, with `at_start`), or at every evaluation. Answers are generated token by token, and
    cost far more time than the loss; the plan's `estimate.answers` counts them."""
    exact_match_rows: NonNegativeInt
    """Rows answered by greedy generation and compared with the reference answer; 0 turns it off."""
    answers_at_once: Annotated[PositiveInt | Auto, Effect.SPEED]
    """Answers generated side by side: faster, for more memory (a key-value cache for each)."""
    samples: NonNegativeInt
    """Sample answers printed and logged at the end."""
