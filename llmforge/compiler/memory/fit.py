"""The largest value that fits, and the smallest change that makes a plan fit.

In: a solved context. Out: `Fit` of one key, or overrides. Each question is answered by sheets of
changed settings, a millisecond each; nothing is composed or derived again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.compiler.context import Context
from llmforge.compiler.derive.kernels import lean_obstacle
from llmforge.compiler.memory.sheet import Sheet, gib, memory_sheet
from llmforge.compiler.parse import parse_or_fail
from llmforge.compose import compose
from llmforge.schema import RunSpec
from llmforge.schema.adapter import LowRank, NoAdapter
from llmforge.schema.model import ScratchModel
from llmforge.schema.precision import NoQuantization
from llmforge.schema.train import LmTrainer

_MOST = 2**20
"""No answer is larger."""


@dataclass(frozen=True)
class Fit:
    """The answer for one key."""

    key: str
    now: int
    """The plan's value."""
    largest: int
    """The largest that fits; 0: none does."""
    sheet: Sheet | None
    """The sheet at the largest."""
    override: str | None
    """What to paste; None where nothing fits."""

    def __str__(self) -> str:
        """The answer in one line."""
        if self.override is None or self.sheet is None:
            return f"fit  {self.key}: not even 1 fits"
        return (
            f"fit  {self.key}: {self.largest:,} at most (now {self.now:,}), "
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
    largest = largest_fitting(lambda value: _fits(context, {key: value}), _limit(context, key))
    if not largest:
        return Fit(key, now, 0, sheet_of(context, {key: 1}), None)
    override = f"{key}={largest}"
    if key == "trainer.micro_batch" and not any_global_batch:
        override = f"{key}={_usable(context, largest)} trainer.accumulation=auto"
    return Fit(key, now, largest, sheet_of(context, {key: largest}), override)


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


def _limit(context: Context, key: str) -> int:
    model = context.facts.model
    assert model is not None  # noqa: S101 - the sheet was made
    if key == "collator.max_length":
        return model.context or _MOST
    if key == "lora.r":
        return model.hidden
    return 4096


def _usable(context: Context, largest: int) -> int:
    """The largest micro batch up to `largest` that the global batch is a multiple of."""
    spec = context.spec
    share = int(spec.trainer.global_batch) // int(spec.launch.processes)
    return max(n for n in range(1, min(share, largest) + 1) if share % n == 0) if share else 1


def _fits(context: Context, changes: Mapping[str, Any]) -> bool:
    found = sheet_of(context, changes)
    return found is not None and found.fits


def smallest_change(context: Context) -> tuple[str, Sheet] | None:
    """Overrides that make the plan fit, the ones that change results least first.

    Returns:
        Overrides to paste and the sheet they lead to; None where nothing known helps.
    """
    for overrides, changes in _ladder(context):
        found = sheet_of(context, changes)
        if found is not None and found.fits:
            return overrides, found
    return None


Change = tuple[str, dict[str, Any]]


def _ladder(context: Context) -> Iterator[Change]:
    """Changes from harmless to drastic: first the speed pays, then the numbers."""
    quick = [
        _evaluation(context),
        *_micro(context),
        *_flag(context, "trainer.gradient_checkpointing", True),
        *_lean_loss(context),
    ]
    yield from quick
    together: Change = ("", {})
    for change in (*_flag(context, "trainer.gradient_checkpointing", True), *_lean_loss(context)):
        together = _both(together, change)
        yield together
        for smaller in _micro(context):
            yield _both(together, smaller)
    smallest = _both(together, list(_micro(context))[-1]) if list(_micro(context)) else together
    for change in _lighter(context):
        yield _both(together, change)
        yield _both(smallest, change)
    length = int(context.spec.collator.max_length)
    while length > 256:
        length //= 2
        yield _both(smallest, (f"collator.max_length={length}", {"collator.max_length": length}))


def _both(one: Change, other: Change) -> Change:
    return f"{one[0]} {other[0]}".strip(), {**one[1], **other[1]}


def _evaluation(context: Context) -> Change:
    micro = context.spec.trainer.micro_batch
    return f"evaluation.micro_batch={micro}", {"evaluation.micro_batch": micro}


def _micro(context: Context) -> Iterator[Change]:
    """Smaller micro batches of the same global batch."""
    trainer = context.spec.trainer
    micro, passes = int(trainer.micro_batch), int(trainer.accumulation)
    for smaller in range(micro - 1, 0, -1):
        if (micro * passes) % smaller == 0:
            text = f"trainer.micro_batch={smaller} trainer.accumulation=auto"
            rows = int(context.spec.evaluation.micro_batch)
            yield (
                text,
                {
                    "trainer.micro_batch": smaller,
                    "trainer.accumulation": micro * passes // smaller,
                    # `auto` follows the micro batch; a number of the user's own stays
                    "evaluation.micro_batch": 2 * smaller if rows == 2 * micro else rows,
                },
            )


def _flag(context: Context, key: str, value: Any) -> Iterator[Change]:
    section, _, name = key.partition(".")
    if getattr(getattr(context.spec, section), name) != value:
        yield f"{key}={str(value).lower()}", {key: value}


def _lean_loss(context: Context) -> Iterator[Change]:
    trainer = context.spec.trainer
    whole = isinstance(trainer, LmTrainer) and trainer.loss_kernel == "full"
    if whole and lean_obstacle(context) is None:
        yield "trainer.loss_kernel=chunked", {"trainer.loss_kernel": "chunked"}


def _lighter(context: Context) -> Iterator[Change]:
    """What changes numbers: a quantized base under an adapter, an adapter in place of all."""
    spec = context.spec
    full = isinstance(spec.lora, NoAdapter)
    if isinstance(spec.model, ScratchModel) or not isinstance(spec.quantization, NoQuantization):
        return
    ways = ("lora=small", "lora=small quantization=4bit")
    for words in ways if full else ("quantization=8bit", "quantization=4bit"):
        changes: dict[str, Any] = {"precision.weights": spec.precision.compute}
        for word in words.split():
            changes[f"{word.partition('=')[0]}."] = _shipped(spec, word)
        yield words, changes


def _shipped(spec: RunSpec, choice: str) -> Any:
    """The section that an option stands for, with its shipped values."""
    section = choice.partition("=")[0]
    values = compose([choice]).values[section]
    return getattr(parse_or_fail({**spec.settings(), section: values}), section)
