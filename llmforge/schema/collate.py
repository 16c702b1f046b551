"""Schema of how rows become samples with labels, and samples become batches: section `collator`.

In: nothing. Out: the spec classes of `collator`. The masks are made in `build/tokenize.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Auto, Effect, PositiveInt, Spec

Turns = Literal["all", "last", "flagged"]


class CollatorSpec(Spec):
    """How rows become batches with labels."""

    effect = Effect.DATA

    kind: str
    max_length: Annotated[int, Field(ge=8)] | Auto
    """Longest sample in tokens; `auto` is the smaller of the model's context and 2,048."""
    truncation: Literal["refuse", "drop", "right", "left", "split"]
    """What happens to a longer sample: stop the run, leave it out, cut its end or start, or split
    it into several samples."""
    packing: Literal["none", "best_fit"]
    """Put several samples into one row of up to `max_length` tokens; they do not see each other.
    `best_fit` places the longest first over the whole set, each where the least room is left."""
    pad_to_multiple: Annotated[PositiveInt, Effect.SPEED]
    """Pad batches to a multiple of this many tokens (8 fills tensor cores)."""


class JoinsParts(CollatorSpec):
    """What every collator has that reads `text_parts` rows."""

    separator: str
    """Between the parts of a `text_parts` row."""


@register("collator", "auto")
class AutoCollator(JoinsParts):
    """Chosen by the shape of the data: text and text_parts -> lm, prompt_completion -> completion,
    messages and instruction -> chat, preference -> preference."""

    kind: Literal["auto"]
    prefix_end: str | None
    """Taken over by `completion`."""
    turns: Turns
    """Taken over by `chat`."""
    train_end_of_turn: bool
    """Taken over by `chat`."""


@register("collator", "lm", "llmforge.build.tokenize:lm_sample")
class LmCollator(JoinsParts):
    """Loss on every token."""

    kind: Literal["lm"]


@register("collator", "completion", "llmforge.build.tokenize:completion_sample")
class CompletionCollator(JoinsParts):
    """Loss on the completion (of text parts: the last) and the end token only."""

    kind: Literal["completion"]
    prefix_end: str | None
    """A marker in the completion: what stands up to its first occurrence, and the marker, carry no
    loss. Null trains the whole completion; so does a completion without the marker."""


@register("collator", "chat", "llmforge.build.tokenize:chat_sample")
class ChatCollator(CollatorSpec):
    """Loss on assistant turns only."""

    kind: Literal["chat"]
    turns: Turns
    """Which assistant turns carry loss: all, the last, or those flagged in the data
    (`data.fields.flag`)."""
    train_end_of_turn: bool
    """The token that ends a turn carries loss too; without it the model does not learn to stop."""


@register("collator", "preference", "llmforge.build.pairs:pair_samples")
class PreferenceCollator(CollatorSpec):
    """Pairs of answers to one prompt: the last answer and its end carry loss, in both. Each of the
    two is a sample of up to `max_length` tokens, prompt included."""

    kind: Literal["preference"]
