"""Schema of the section `fuse`: an adapter merged into its base, with proof.

In: nothing. Out: `FuseSpec`. The merging is `build/fusing.py`'s, the proof `build/parity.py`'s.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from llmforge.schema.base import (
    Auto,
    Dtype,
    Effect,
    Fraction,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Spec,
)


class FuseSpec(Spec):
    """How an adapter is merged into its base, and what the merged model must agree in."""

    effect = Effect.FUSE

    after_training: Annotated[bool, Effect.BOOKKEEPING]
    """Fuse as the last part of `llmforge train`, in a worker of its own."""
    dtype: Dtype | Auto
    """Format of the fused weights; `auto` is the format the base lies in."""
    folder: Annotated[str | None, Effect.BOOKKEEPING]
    """Where to; null is `fused/` in the run folder."""
    shard_size: Annotated[str, Effect.BOOKKEEPING, Field(pattern=r"^\d+(MB|GB)$")]
    """Largest weight file, such as `5GB`."""
    probe_rows: NonNegativeInt
    """Held-out rows of the run that are probed beside the stored texts."""
    probe_tokens: PositiveInt
    """Tokens of a probe text that are compared."""
    new_tokens: NonNegativeInt
    """Tokens generated greedily from each probe by both models, and compared."""
    max_kl: NonNegativeFloat
    """Largest mean Kullback-Leibler divergence per token, in nats, of the fused model from base
    and adapter."""
    min_agreement: Fraction
    """Smallest share of positions at which both models find the same token likeliest."""
    max_difference: NonNegativeFloat
    """Largest difference of a logit, in standard deviations of the logits."""
