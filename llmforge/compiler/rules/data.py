"""LF5: lengths, and whether the collator fits the data."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.inputs import COLLATOR_OF_SHAPE
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic


@rule("LF507", "collator that does not fit the data")
def collator_does_not_fit(context: Context) -> Iterator[Diagnostic]:
    """Each collator reads one shape of rows: `completion` needs prompt and completion, `chat`
    needs messages, `lm` takes any text.

    `collator=auto` picks the fitting one.
    """
    shape, kind = context.spec.data.shape, context.spec.collator.kind
    fitting = COLLATOR_OF_SHAPE.get(shape)
    if fitting is not None and kind in COLLATOR_OF_SHAPE.values() and kind not in (fitting, "lm"):
        yield Diagnostic(
            "LF507",
            f"collator `{kind}` cannot read rows of shape `{shape}`",
            key="collator.kind",
            hint=f"collator={fitting}",
        )


@rule("LF508", "samples longer than the model's context")
def longer_than_context(context: Context) -> Iterator[Diagnostic]:
    """The model has positions for fewer tokens than `collator.max_length` allows.

    Learned positions would be out of range; rotary ones would be untrained. Either way the run
    fails late or learns little.
    """
    length, model = context.spec.collator.max_length, context.facts.model
    if model is None or model.context is None or not isinstance(length, int):
        return
    if length > model.context:
        yield Diagnostic(
            "LF508",
            f"samples of up to {length:,} tokens for a model that sees {model.context:,}",
            key="collator.max_length",
            hint=f"collator.max_length={model.context}",
        )
