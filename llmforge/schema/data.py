"""Schema of what is learnt from: data and collator.

In: nothing. Out: spec classes for the sections `data` and `collator`. Reading files and looking
at rows is the business of `compiler/facts/data.py` (checks) and `build/data.py` (samples).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Auto, Effect, NonNegativeInt, PositiveInt, Spec

Shape = Literal["text", "prompt_completion", "messages"]
Files = Annotated[list[str], Field(min_length=1)]


class DataSpec(Spec):
    """What every source of rows has."""

    effect = Effect.DATA

    kind: str
    shape: Shape | Auto
    """What a row holds; `auto` detects it from the first rows' fields."""
    eval_fraction: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Share of the training rows held out when no evaluation set is given; 0 holds out none."""
    max_train_rows: PositiveInt | None
    """Use only the first N training rows; null takes all."""
    max_eval_rows: PositiveInt | None
    """Use only the first N evaluation rows; null takes all."""
    shuffle: Annotated[bool, Effect.NUMERICS]
    """Shuffle the training rows each epoch with the run's seed."""


@register("data", "builtin", "llmforge.build.data:builtin_files")
class BuiltinData(DataSpec):
    """The example conversations that llmforge generates itself."""

    kind: Literal["builtin"]
    rows: Annotated[int, Field(ge=200, le=50_000)]
    """Conversations generated, training and held-out together."""
    generator_seed: int
    """Seed of the generator, apart from the run's seed."""


class Fields(Spec):
    """Which column holds what."""

    effect = Effect.DATA

    text: str
    """Whole text (shape `text`)."""
    prompt: str
    """What is given (shape `prompt_completion`)."""
    completion: str
    """What is learnt (shape `prompt_completion`)."""
    messages: str
    """List of {role, content} (shape `messages`)."""


@register("data", "jsonl", "llmforge.build.data:jsonl_files")
class JsonlData(DataSpec):
    """JSON Lines: one object a line, UTF-8."""

    kind: Literal["jsonl"]
    train: Annotated[str | Files, Effect.BOOKKEEPING]
    """File or files; their digests enter the fingerprint, not their paths."""
    evaluation: Annotated[str | Files | None, Effect.BOOKKEEPING]
    """Evaluation file or files; null holds out `eval_fraction` of the training rows."""
    split_seed: NonNegativeInt
    """Seed of which rows are held out, apart from the run's seed: runs that differ in their seed
    only share the prepared data and are measured on the same rows."""
    fields: Fields
    """Names of the columns in the files."""


class CollatorSpec(Spec):
    """How rows become batches with labels."""

    effect = Effect.DATA

    kind: str
    max_length: Annotated[int, Field(ge=8)] | Auto
    """Longest sample in tokens; `auto` is the smaller of the model's context and 2,048."""
    truncation: Literal["refuse", "drop", "right", "left"]
    """What happens to a longer sample: stop the run, leave it out, or cut its end or start."""
    pad_to_multiple: Annotated[PositiveInt, Effect.SPEED]
    """Pad batches to a multiple of this many tokens (8 fills tensor cores)."""


@register("collator", "auto")
class AutoCollator(CollatorSpec):
    """Chosen by the shape of the data: text -> lm, prompt_completion -> completion,
    messages -> chat."""

    kind: Literal["auto"]
    turns: Literal["all", "last"]
    """Taken over by `chat`."""


@register("collator", "lm", "llmforge.build.tokenize:lm_sample")
class LmCollator(CollatorSpec):
    """Loss on every token."""

    kind: Literal["lm"]


@register("collator", "completion", "llmforge.build.tokenize:completion_sample")
class CompletionCollator(CollatorSpec):
    """Loss on the completion and the end token only."""

    kind: Literal["completion"]


@register("collator", "chat", "llmforge.build.tokenize:chat_sample")
class ChatCollator(CollatorSpec):
    """Loss on assistant turns and their end-of-turn tokens only."""

    kind: Literal["chat"]
    turns: Literal["all", "last"]
    """Which assistant turns carry loss."""
