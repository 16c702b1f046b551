"""LF5: lengths, and whether the collator fits the data."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.inputs import COLLATOR_OF_SHAPE, READABLE
from llmforge.compiler.facts.faults import pasted
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.schema import RunSpec
from llmforge.schema.data import GeneratedData, MixData, Source
from llmforge.sources.opening import sources_of


@rule("LF507", "collator that does not fit the data")
def collator_does_not_fit(context: Context) -> Iterator[Diagnostic]:
    """Each collator reads certain shapes of rows: `completion` needs something to complete, `chat`
    needs somebody who asks, `lm` takes any text.

    `collator=auto` picks a fitting one.
    """
    facts, kind = context.facts.data, context.spec.collator.kind
    if facts is None or kind not in READABLE:
        return
    unread = [shape for shape in facts.shapes if shape not in READABLE[kind]]
    if unread:
        shown = ", ".join(f"`{shape}`" for shape in unread)
        fitting = COLLATOR_OF_SHAPE[unread[0]] if len(facts.shapes) == 1 else "auto"
        yield Diagnostic(
            "LF507",
            f"collator `{kind}` cannot read rows of shape {shown}",
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


@rule("LF513", "steps that are foretold")
def foretold_steps(context: Context) -> Iterator[Diagnostic]:
    """How many packs, pieces or left-over samples there are follows from the tokens, so the steps
    of an epoch are a guess until the data are prepared.

    `llmforge train` prepares them before it settles the plan; `llmforge prepare` does it now. A
    note; a saved plan with foretold steps is refused when it is to be run.
    """
    samples, trainer = context.facts.samples, context.spec.trainer
    if samples is None or samples.exact or trainer.max_steps is not None:
        return
    yield Diagnostic(
        "LF513",
        f"about {samples.count:,} {samples.what} an epoch: the exact number, and with it the "
        "steps, is known once the data are prepared",
        Severity.NOTE,
        key=_reason(context.spec),
        notes=(
            "`llmforge train` prepares them first, `llmforge prepare` with the same settings now",
        ),
    )


def _reason(spec: RunSpec) -> str:
    """The setting for which the number of samples is not that of the rows."""
    if spec.collator.packing != "none":
        return "collator.packing"
    if spec.collator.truncation in ("split", "drop"):
        return "collator.truncation"
    return "data.max_bad_rows" if spec.data.max_bad_rows != 0 else "data.max_untrained_rows"


@rule("LF519", "streaming of what must be known whole")
def streamed_data(context: Context) -> Iterator[Diagnostic]:
    """Streamed rows are read while training and never counted: nothing can follow from how many
    there are, and nothing can be chosen from all of them.

    So the run's length is `trainer.max_steps`, evaluation rows have files of their own (of a file
    with a fold column, train on `data.select=['part == "train"']`), the tokenizer is there already,
    one process trains, and sources of a mix take turns instead of having weights.
    """
    spec = context.spec
    if not spec.data.streaming:
        return
    for key, what, hint in (*_counted(spec), *_held_out(spec), *_at_once(spec)):
        yield Diagnostic("LF519", f"{what}, while the data are streamed", key=key, hint=hint)


Found = Iterator[tuple[str, str, str]]
"""Key, what is impossible, hint."""


def _counted(spec: RunSpec) -> Found:
    """What follows from the number of rows."""
    if spec.trainer.max_steps is None:
        steps = "trainer.epochs=null trainer.max_steps=1000"
        yield "trainer.max_steps", "an epoch of unknown length", steps
    for key, every in (
        ("evaluation.every", spec.evaluation.every),
        ("checkpoint.every", spec.checkpoint.every),
        ("trainer.log_every", spec.trainer.log_every),
    ):
        if every == "epoch":
            yield key, "every epoch, whose length is not known", f"{key}=25%"
    if isinstance(spec.data, MixData) and spec.data.weights is not None:
        yield "data.weights", "weights of sources of unknown size", "data.weights=null"


def _held_out(spec: RunSpec) -> Found:
    """Evaluation rows that stand among the training rows."""
    sources = sources_of(spec.data)
    for name, source in sources.items():
        if source.fold is not None:
            prefix = f"data.sources.{name}" if name else "data"
            what = "rows held out by a column of rows that are never counted"
            yield f"{prefix}.fold", what, pasted(_selected(source), prefix)
    if spec.data.eval_fraction > 0 and any(
        source.fold is None and getattr(source, "evaluation", None) is None
        for source in sources.values()
    ):
        what = "a share held out of rows that are never counted"
        yield "data.eval_fraction", what, "data.eval_fraction=0 evaluation.every=null"


def _selected(source: Source) -> str:
    """The training rows of a fold column, by conditions."""
    kept = ", ".join(json.dumps(text) for text in (*source.select, f'{source.fold} == "train"'))
    return f"data.fold=null {shlex.quote(f'data.select=[{kept}]')}"


def _at_once(spec: RunSpec) -> Found:
    """What needs all rows before the first step."""
    if spec.tokenizer.source == "train":
        what = "a tokenizer trained on rows that are not read ahead"
        yield "tokenizer.source", what, "tokenizer.source=<folder>"
    if isinstance(spec.data, GeneratedData):
        yield "data.streaming", "rows that are generated at once", "data.streaming=false"
