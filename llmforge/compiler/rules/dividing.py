"""Hints that divide: batches and numbers of processes that lead to a plan which checks.

In: a solved context and what a hint would say. Out: overrides under which global batch = micro
batch x accumulation x processes comes out, or None where no choice of them does. What was given is
kept where it can be; the global batch, which decides what is learnt, is changed only where the hint
is about it. Whether the plan at hand comes out is `rules/batch.py`'s affair.
"""

from __future__ import annotations

from collections.abc import Mapping

from llmforge.compiler.context import Context
from llmforge.compiler.parse import override

TOTAL, MICRO, PASSES = "trainer.global_batch", "trainer.micro_batch", "trainer.accumulation"
BATCH = (TOTAL, MICRO, PASSES)
"""Keys of the batch arithmetic."""

_FREED: tuple[tuple[str, ...], ...] = ((), (PASSES,), (MICRO,), (MICRO, PASSES))
"""What may be left to be solved, the least first."""


def batch_override(context: Context, wanted: Mapping[str, int]) -> str | None:
    """Overrides that bring `wanted` about, others freed as far as they contradict it.

    Args:
        wanted: keys of `BATCH` with their values.
    """
    given = {key: number for key, number in _given(context).items() if key not in wanted}
    for freed in _FREED:
        kept = {key: number for key, number in given.items() if key not in freed}
        if _divides({**kept, **wanted}, _processes(context)):
            words = [override(key, number) for key, number in wanted.items()]
            return " ".join([*words, *(f"{key}=auto" for key in freed if key in given)])
    return None


def fitting_batch(context: Context, wish: int) -> int:
    """The largest global batch up to `wish` that divides; the smallest there is, if none does."""
    given = _given(context)
    unit = _processes(context) * given.get(MICRO, 1) * given.get(PASSES, 1)
    return max(unit, wish - wish % unit)


def fitting_processes(context: Context, most: int, each: int = 1) -> int:
    """The largest number of processes up to `most` over which the global batch divides.

    Args:
        most: that there can be.
        each: what the number must be a multiple of, such as the nodes; with none that divides, the
            largest multiple.
    """
    given = _given(context)
    found = [many for many in range(each, most + 1, each) if _divides(given, many)]
    return max(found, default=max(each, most - most % each))


def _given(context: Context) -> dict[str, int]:
    """What was asked for in numbers."""
    trainer = context.spec.trainer
    values = dict(
        zip(BATCH, (trainer.global_batch, trainer.micro_batch, trainer.accumulation), strict=True)
    )
    return {
        key: value
        for key, value in values.items()
        if isinstance(value, int) and key not in context.solved
    }


def _divides(numbers: Mapping[str, int], world: int) -> bool:
    """Is there a whole number for each that is missing?"""
    total = numbers.get(TOTAL)
    if total is None:
        return True
    least = numbers.get(MICRO, 1) * numbers.get(PASSES, 1) * world
    return total == least if len(numbers) == len(BATCH) else total % least == 0


def _processes(context: Context) -> int:
    world = context.spec.launch.processes
    return world if isinstance(world, int) else 1
