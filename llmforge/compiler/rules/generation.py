"""LF86: settings of generation that contradict each other.

In: the `generation` section. Out: findings. `contradictions` is asked again by the verbs that ask a
model (`generate`, `chat`), where overrides meet the settings of a run.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.schema.generation import GenerationSpec

OFF = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0}
"""Settings of drawing, and the value that leaves the distribution as it is."""


def contradictions(generation: GenerationSpec) -> Iterator[Diagnostic]:
    """Everything that is wrong with the section by itself."""
    yield from _bounds(generation)
    yield from _unused(generation)


@rule("LF860", "shortest answer longer than the longest")
def answer_bounds(context: Context) -> Iterator[Diagnostic]:
    """`generation.min_new_tokens` is above `generation.max_new_tokens`: no answer has that length.

    Every answer would end at the longest length, in the middle of a sentence.
    """
    yield from _bounds(context.spec.generation)


@rule("LF861", "sampling option without sampling")
def sampling_unused(context: Context) -> Iterator[Diagnostic]:
    """Temperature, top-p, top-k and min-p shape a distribution that answers are drawn from; greedy
    answers and beams look at the likeliest tokens alone, and the option does nothing.

    `early_stopping` likewise is about beam search. A warning.
    """
    yield from _unused(context.spec.generation)


def _bounds(generation: GenerationSpec) -> Iterator[Diagnostic]:
    if generation.min_new_tokens > generation.max_new_tokens:
        yield Diagnostic(
            "LF860",
            f"an answer of at least {generation.min_new_tokens} tokens and at most "
            f"{generation.max_new_tokens}",
            key="generation.min_new_tokens",
            hint=f"generation.max_new_tokens={generation.min_new_tokens}",
        )


def _unused(generation: GenerationSpec) -> Iterator[Diagnostic]:
    if not generation.sample:
        for name, off in OFF.items():
            if getattr(generation, name) != off:
                yield Diagnostic(
                    "LF861",
                    f"{name} does nothing: answers are not drawn",
                    Severity.WARNING,
                    key=f"generation.{name}",
                    hint="generation.sample=true",
                )
    if generation.early_stopping and generation.num_beams == 1:
        yield Diagnostic(
            "LF861",
            "early_stopping does nothing without beams",
            Severity.WARNING,
            key="generation.early_stopping",
            hint="generation.early_stopping=false",
        )
