"""Schema of how answers are generated.

In: nothing. Out: `GenerationSpec`. What contradicts itself is refused in
`compiler/rules/generation.py`.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmforge.schema.base import (
    Effect,
    NonNegativeInt,
    PositiveInt,
    Spec,
)

Text = Annotated[str, Field(min_length=1)]


class GenerationSpec(Spec):
    """How answers are generated (`llmforge generate`, `llmforge chat`, sample answers)."""

    effect = Effect.EVALUATION

    max_new_tokens: PositiveInt
    """Longest answer in tokens."""
    min_new_tokens: NonNegativeInt
    """Shortest answer in tokens: before it no answer stops; 0 sets none."""
    sample: bool
    """Draw from the distribution; false is greedy. Exact match is always greedy."""
    temperature: Annotated[float, Field(gt=0.0)]
    """Divides the logits before sampling: below 1 is more certain, above 1 more varied."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    """Draw from the fewest tokens whose probabilities reach this sum; 1 draws from all."""
    top_k: NonNegativeInt
    """Draw from this many of the likeliest tokens; 0 draws from all."""
    min_p: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Draw only from tokens at least this share as likely as the likeliest one; 0 draws from all
    (Nguyen et al. 2024, arXiv 2407.01082)."""
    num_beams: PositiveInt
    """Beams of beam search; 1 is none. Memory and time grow with it, and no answer is streamed."""
    early_stopping: bool
    """Beam search ends with the first `num_beams` whole answers; false looks for better ones."""
    repetition_penalty: Annotated[float, Field(gt=0.0)]
    """Divides the logits of tokens that were used already; 1 is off."""
    no_repeat_ngram_size: NonNegativeInt
    """No run of this many tokens stands twice in prompt and answer; 0 is off."""
    stop: list[Text]
    """Texts that end an answer; they are left out of it. The end of turn ends it always."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)] | None
    """Seed of drawn answers; null draws others each time. Sample answers of a run that leaves it
    null follow the run's own `seed`."""
    system: Text | None
    """System prompt before what is asked by `generate` and `chat`; null sends none."""
    batch: Annotated[PositiveInt, Effect.SPEED]
    """Prompts of a file that are answered at once (`llmforge generate --prompts`)."""
