"""What follows from memory for evaluation: rows of a forward pass, answers generated at once.

In: a context whose training batch is solved. Out: `evaluation.micro_batch` and
`evaluation.answers_at_once` where they are `auto`. What fits in no way is left as small as it gets;
rule LF209 refuses it.
"""

from __future__ import annotations

from llmforge.compiler.context import Context, Derived, Step
from llmforge.compiler.memory.fit import sheet_of
from llmforge.compiler.memory.sheet import Sheet, gib

MOST_ANSWERS = 64
"""Answers at once from which more are hardly faster: each step then reads the weights once for as
many of them as it takes to keep a device busy."""


def derive_evaluation_batch(context: Context) -> Step:
    """Evaluation holds no gradients: twice the micro batch, if its logits fit."""
    if isinstance(context.spec.evaluation.micro_batch, int):
        return Step()
    key = "evaluation.micro_batch"
    micro = int(context.spec.trainer.micro_batch)
    # generating answers is solved by the pass below, for itself
    sizes = [2 * micro, *_halved(micro)]
    value, sheet = _largest(context, key, sizes, {"evaluation.answers_at_once": 1})
    why = "evaluation holds no gradients: twice the micro batch"
    if value == micro:
        why = "as in training: the logits of twice as many would not fit"
    elif value < micro and sheet is not None:
        why = f"largest that fits: {gib(sheet.needed)} of {gib(sheet.available)}"
    reads = ("trainer.micro_batch", "metrics", "hardware.memory_gib")
    return Step((Derived(key, value, why, reads),))


def derive_answers(context: Context) -> Step:
    """As many answers side by side as keep a device busy, if their key-value caches fit."""
    evaluation = context.spec.evaluation
    if isinstance(evaluation.answers_at_once, int):
        return Step()
    key = "evaluation.answers_at_once"
    asked = max(1, evaluation.exact_match_rows, evaluation.samples)
    first = min(asked, MOST_ANSWERS)
    value, sheet = _largest(context, key, _halved(first), {})
    why = "all that are asked" if asked < MOST_ANSWERS else "more at once are hardly faster"
    if value < first and sheet is not None:
        why = f"largest that fits: {gib(sheet.needed)} of {gib(sheet.available)}"
    reads = ("evaluation.exact_match_rows", "generation.max_new_tokens", "hardware.memory_gib")
    return Step((Derived(key, value, why, reads),))


def _halved(first: int) -> list[int]:
    return [first // 2**times for times in range(first.bit_length())]


def _largest(
    context: Context, key: str, sizes: list[int], beside: dict[str, int]
) -> tuple[int, Sheet | None]:
    """The first of `sizes` that fits, else the last, with its sheet; the first where none is known.

    The last is also taken where another phase is what does not fit: then what would make that one
    fit is looked for, and evaluation must not stand in its way.
    """
    found = None
    for size in sizes:
        found = sheet_of(context, {key: size, **beside})
        if found is None or found.fits:
            return size, found
    return sizes[-1], found
