"""The largest value of a key that fits.

In: a solved context. Out: `Fit`. Each question is answered by sheets of changed settings, a
millisecond each; nothing is composed or derived again. What makes a plan fit that does not is
`remedies.py`'s question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.compiler.context import Context
from llmforge.compiler.memory.sheet import Sheet, gib, memory_sheet
from llmforge.schema import RunSpec
from llmforge.schema.adapter import LowRank, PrefixTuning

_MOST, _MOST_ROWS = 2**20, 4096
"""No answer is larger: tokens, rows."""


@dataclass(frozen=True)
class Fit:
    """The answer for one key."""

    key: str
    now: int
    """The plan's value."""
    largest: int
    """The largest that fits; 0: none does."""
    bound: str
    """What stands in the way of a larger one."""
    sheet: Sheet | None
    """The sheet at the largest."""
    override: str | None
    """What to paste; None where nothing fits."""

    def __str__(self) -> str:
        """The answer in one line."""
        if self.override is None or self.sheet is None:
            return f"fit  {self.key}: not even 1 fits"
        return (
            f"fit  {self.key}: {self.largest:,} at most (now {self.now:,}; bound by {self.bound}), "
            f"{gib(self.sheet.needed)} of {gib(self.sheet.available)}; {self.override}"
        )


class CannotFit(ValueError):
    """There is no answer for this key of this plan; the message says why."""


def sheet_of(context: Context, changes: Mapping[str, Any] | None = None) -> Sheet | None:
    """The memory sheet of a solved context, some settings replaced."""
    model = context.facts.model
    if model is None:
        return None
    spec = changed(context.spec, changes or {})
    return memory_sheet(model, spec, context.facts.model_config)


def changed(spec: RunSpec, changes: Mapping[str, Any]) -> RunSpec:
    """A copy with other values; they are taken as they are."""
    sections: dict[str, dict[str, Any]] = {}
    for key, value in changes.items():
        section, _, name = key.partition(".")
        sections.setdefault(section, {})[name] = value
    updated = {
        section: values[""] if "" in values else getattr(spec, section).model_copy(update=values)
        for section, values in sections.items()
    }
    return spec.model_copy(update=updated)


KEYS = ("trainer.micro_batch", "collator.max_length", "lora.r", "evaluation.micro_batch")
"""What can be asked for."""


def fit(context: Context, key: str, any_global_batch: bool = False) -> Fit:
    """The largest value of a key that fits the plan's hardware, all else as it is.

    Args:
        context: solved.
        key: one of `KEYS`.
        any_global_batch: `trainer.global_batch` follows the micro batch, and not the other way
            round.

    Raises:
        CannotFit: the key is none of `KEYS`, or the sheet of this plan is not known.
    """
    if key not in KEYS:
        raise CannotFit(f"`{key}` cannot be solved for; these can: {', '.join(KEYS)}")
    spec = context.spec
    if key == "lora.r" and not isinstance(spec.lora, LowRank):
        raise CannotFit(f"`lora.kind={spec.lora.kind}` has no rank")
    if sheet_of(context) is None:
        raise CannotFit("the model's sizes are not known before it is built")
    section, _, name = key.partition(".")
    now = int(getattr(getattr(spec, section), name))
    limit, bound = _limit(context, key, any_global_batch)

    def changes(value: int) -> dict[str, Any]:
        # how many answers are generated at once is solved after this, and never what decides
        beside = {"evaluation.answers_at_once": 1}
        if key != "trainer.micro_batch":
            return {key: value, **beside}
        return {**batch_changes(context, value, 1 if any_global_batch else None), **beside}

    values = shares(context) if bound == "the global batch" else range(1, limit + 1)
    index = largest_fitting(lambda i: _fits(context, changes(values[i - 1])), len(values))
    if not index:
        return Fit(key, now, 0, "memory", sheet_of(context, changes(values[0])), None)
    largest = values[index - 1]
    override = f"{key}={largest}"
    if key == "trainer.micro_batch":
        override += f" trainer.accumulation={changes(largest)['trainer.accumulation']}"
    elif key == "collator.max_length":
        # solved anew for longer rows it would become smaller
        override += f" trainer.micro_batch={spec.trainer.micro_batch}"
    reached = bound if index == len(values) else "memory"
    return Fit(key, now, largest, reached, sheet_of(context, changes(largest)), override)


def batch_changes(context: Context, micro: int, passes: int | None = None) -> dict[str, Any]:
    """A micro batch with what follows from it; `passes` where it is not the global batch's."""
    trainer, rows = context.spec.trainer, int(context.spec.evaluation.micro_batch)
    share = int(trainer.micro_batch) * int(trainer.accumulation)
    if rows in (int(trainer.micro_batch), 2 * int(trainer.micro_batch)):
        rows = micro  # it follows the micro batch, and is no larger than it must be
    return {
        "trainer.micro_batch": micro,
        "trainer.accumulation": passes or max(1, share // micro),
        "evaluation.micro_batch": rows,
    }


def largest_fitting(fits: Callable[[int], bool], limit: int) -> int:
    """The largest number up to `limit` that fits, by halving; 0 where 1 does not."""
    low, high = 0, 1
    while high <= limit and fits(high):
        low, high = high, high * 2
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _limit(context: Context, key: str, any_global_batch: bool) -> tuple[int, str]:
    """The largest value that is tried, and what sets it."""
    model = context.facts.model
    assert model is not None  # noqa: S101 - the sheet was made
    if key == "collator.max_length":
        return (model.context, "the model's context") if model.context else (_MOST, "nothing")
    if key == "lora.r":
        return model.hidden, "the model's width"
    if key == "trainer.micro_batch" and not any_global_batch:
        return shares(context)[-1], "the global batch"
    return _MOST_ROWS, "what is tried"


def shares(context: Context) -> list[int]:
    """Micro batches that the global batch of a process is a multiple of."""
    trainer = context.spec.trainer
    share = int(trainer.micro_batch) * int(trainer.accumulation)
    return [n for n in range(1, share + 1) if share % n == 0]


def _fits(context: Context, changes: Mapping[str, Any]) -> bool:
    found = sheet_of(context, changes)
    return found is not None and found.fits


def can_recompute(spec: RunSpec) -> bool:
    """Prefix tuning puts its tokens into the cache, which recomputed layers do not have."""
    return not isinstance(spec.lora, PrefixTuning)
