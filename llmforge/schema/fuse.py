"""Schema of the section `fuse`: an adapter merged into its base, with proof.

In: nothing. Out: `FuseSpec`. Merging is done in `build/fusing/merge.py`, the proof in
`build/fusing/parity.py`.
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
    base: Annotated[str | None, Effect.BOOKKEEPING]
    """Full-precision original to merge into: a folder, or a name on the hub (`owner/name`, or
    `owner/name@revision`). Null is the base of the training, which must be unchanged; a base that
    was quantized on disk does not say what its original is. Its content, not this name, decides
    whether a fused model is made anew."""
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
    max_lost: NonNegativeFloat
    """Largest difference of the logits, root mean square, as a share of what the adapter changes in
    them: 1 when it is missing, 0.5 when it is in force by half. A slight adapter's effect is lost
    in the rounding of a short format; then `fuse.dtype=float32` keeps it."""
