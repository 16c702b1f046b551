"""What follows from memory: micro batch and gradient checkpointing, solved together.

In: a context whose formats, kernels, lengths and hardware are solved. Out: the fastest setting that
fits: no checkpointing where it leaves room for a pass that keeps the device busy (it costs a third
more work), then the largest micro batch. Where sizes are not known, a bound on the tokens of a pass
stands in. What fits in no way is left as small as it gets; rule LF209 refuses it.
"""

from __future__ import annotations

from collections.abc import Sequence

from llmforge.compiler.context import Context, Derived, Step
from llmforge.compiler.derive.batch import TOKENS_PER_PASS, micro_batches
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.memory.fit import can_recompute, sheet_of
from llmforge.compiler.memory.sheet import Sheet, gib

_BUSY = 4096
"""Tokens of a pass from which a larger one hardly trains faster than recomputing costs."""

_READS = ("hardware.memory_gib", "facts.model", "collator.max_length", "precision", "lora")


def derive_memory(context: Context) -> Step:
    """Solve `trainer.micro_batch` and `trainer.gradient_checkpointing` where they are `auto`."""
    trainer = context.spec.trainer
    found: list[Derived] = []
    asked_micro = trainer.micro_batch == "auto"
    choices: tuple[bool, ...] = (bool(trainer.gradient_checkpointing),)
    asked_checkpointing = trainer.gradient_checkpointing == "auto"
    if asked_checkpointing:
        choices = (False, True) if can_recompute(context.spec) else (False,)
    sizes, why = micro_batches(context)
    micro, checkpointing, sheet = _fastest(context, choices, sizes)
    if asked_micro:
        if micro != sizes[0]:
            assert sheet is not None  # noqa: S101 - sizes are tried only where there are sheets
            why = f"largest that fits: {_told(sheet)}"
        reads = ("trainer.global_batch", "launch.processes", *_READS)
        found.append(Derived("trainer.micro_batch", micro, why, reads))
    if asked_checkpointing:
        found.append(
            Derived(
                "trainer.gradient_checkpointing",
                checkpointing,
                _why_checkpointing(context, checkpointing, micro, sheet),
                _READS,
            )
        )
    return Step(tuple(found))


def _fastest(
    context: Context, choices: Sequence[bool], sizes: Sequence[int]
) -> tuple[int, bool, Sheet | None]:
    """Micro batch and checkpointing, with their sheet."""
    length = context.spec.collator.max_length
    length = length if isinstance(length, int) else TOKENS_PER_PASS
    length *= context.spec.trainer.SEQUENCES
    best: tuple[int, bool, Sheet | None] | None = None
    for checkpointing in choices:
        for micro in sizes:
            sheet = _sheet(context, micro, checkpointing)
            if sheet is None:  # not known: no reason to recompute anything
                return sizes[0], choices[0], None
            if sheet.fits:
                busy = micro == sizes[0] or micro * length >= _BUSY
                if busy:
                    return micro, checkpointing, sheet
                if best is None or micro > best[0]:
                    best = micro, checkpointing, sheet
                break
    if best is not None:
        return best
    return sizes[-1], choices[-1], _sheet(context, sizes[-1], choices[-1])


def _sheet(context: Context, micro: int, checkpointing: bool) -> Sheet | None:
    trainer = context.spec.trainer
    total, world = trainer.global_batch, context.spec.launch.processes
    passes = trainer.accumulation
    if not isinstance(passes, int):
        known = isinstance(total, int) and isinstance(world, int)
        passes = max(1, total // (micro * world)) if known else 1  # type: ignore[operator]
    return sheet_of(
        context,
        {
            "trainer.micro_batch": micro,
            "trainer.accumulation": passes,
            "trainer.gradient_checkpointing": checkpointing,
            # solved later, and never what decides: it is as small as it must be
            "evaluation.micro_batch": 1,
        },
    )


def _why_checkpointing(
    context: Context, checkpointing: bool, micro: int, sheet: Sheet | None
) -> str:
    if sheet is None:
        return "the model's size is not known; turn it on if memory runs out"
    if not checkpointing and not can_recompute(context.spec):
        return "prefix tuning cannot be computed again"
    if not checkpointing:
        return f"it fits without: {_told(sheet)}"
    without = _sheet(context, micro, False)
    if without is None or hardware(context).device != "cuda":
        return "without it the step would not fit"
    return f"without it the step would need {gib(without.needed)} of {gib(without.available)}"


def _told(sheet: Sheet) -> str:
    return f"{gib(sheet.needed)} of {gib(sheet.available)}"
