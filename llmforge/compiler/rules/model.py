"""LF6: shapes."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic
from llmforge.schema.model import ScratchModel


@rule("LF609", "more tokens than embedding rows")
def tokens_without_rows(context: Context) -> Iterator[Diagnostic]:
    """A token whose number is beyond the model's embedding has no row there: the run would end
    at the first batch that holds one.

    A trained tokenizer has up to `tokenizer.vocabulary` tokens. A checkpoint's own tokenizer
    (`tokenizer.source=model`) fits its embedding; a model from scratch with
    `model.vocabulary=auto` gets as many rows as there are tokens.
    """
    spec, model = context.spec, context.facts.model
    if model is None or spec.tokenizer.source != "train":
        return
    if spec.tokenizer.vocabulary > model.vocabulary:
        scratch = isinstance(spec.model, ScratchModel)
        yield Diagnostic(
            "LF609",
            f"a tokenizer of up to {spec.tokenizer.vocabulary:,} tokens for "
            f"{model.vocabulary:,} embedding rows",
            key="tokenizer.vocabulary",
            hint="model.vocabulary=auto" if scratch else "tokenizer.source=model",
        )
