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
from llmforge.schema.adapter import LowRank, NoAdapter, PrefixTuning
from llmforge.schema.model import ScratchModel
from llmforge.schema.optim import AdamW, BitsAndBytesOptimizer
from llmforge.schema.precision import BitsAndBytes, NoQuantization
from llmforge.schema.run import Device, NoDeepSpeed, NoFsdp
from llmforge.schema.train import LmTrainer

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
        if key != "trainer.micro_batch":
            return {key: value}
        return _batch(context, value, 1 if any_global_batch else None)

    values = _usable(context) if bound == "the global batch" else range(1, limit + 1)
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


def _batch(context: Context, micro: int, passes: int | None = None) -> dict[str, Any]:
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
        return _usable(context)[-1], "the global batch"
    return _MOST_ROWS, "what is tried"


def _usable(context: Context) -> list[int]:
    """Micro batches that the global batch of a process is a multiple of."""
    trainer = context.spec.trainer
    share = int(trainer.micro_batch) * int(trainer.accumulation)
    return [n for n in range(1, share + 1) if share % n == 0]


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
    smaller = list(_micro(context))
    lean = (*_checkpointing(context), *_lean_loss(context))
    yield from (_evaluation(context), *smaller, *lean)
    together: Change = ("", {})
    for change in lean:
        together = _both(together, change)
        yield together
        for micro in smaller:
            yield _both(together, micro)
    smallest = _both(together, smaller[-1]) if smaller else together
    for change in (*_sharded(context), *_lighter_state(context), *_lighter(context)):
        yield change
        yield _both(together, change)
        yield _both(smallest, change)
    length = int(context.spec.collator.max_length)
    while length > _SHORT:
        length //= 2
        yield _both(smallest, (f"collator.max_length={length}", {"collator.max_length": length}))


_SHORT = 256
"""Rows are not cut below this for the sake of memory."""


def _both(one: Change, other: Change) -> Change:
    return f"{one[0]} {other[0]}".strip(), {**one[1], **other[1]}


def _evaluation(context: Context) -> Change:
    micro = context.spec.trainer.micro_batch
    return f"evaluation.micro_batch={micro}", {"evaluation.micro_batch": micro}


def _micro(context: Context) -> Iterator[Change]:
    """Smaller micro batches of the same global batch."""
    for smaller in reversed(_usable(context)):
        if smaller < int(context.spec.trainer.micro_batch):
            changes = _batch(context, smaller)
            passes = changes["trainer.accumulation"]
            yield f"trainer.micro_batch={smaller} trainer.accumulation={passes}", changes


def _checkpointing(context: Context) -> Iterator[Change]:
    if can_recompute(context.spec) and not context.spec.trainer.gradient_checkpointing:
        key = "trainer.gradient_checkpointing"
        yield f"{key}=true", {key: True}


def can_recompute(spec: RunSpec) -> bool:
    """Prefix tuning puts its tokens into the cache, which recomputed layers do not have."""
    return not isinstance(spec.lora, PrefixTuning)


def _lean_loss(context: Context) -> Iterator[Change]:
    trainer = context.spec.trainer
    whole = isinstance(trainer, LmTrainer) and trainer.loss_kernel == "full"
    if whole and lean_obstacle(context) is None:
        yield "trainer.loss_kernel=chunked", {"trainer.loss_kernel": "chunked"}


def _is_sharded(spec: RunSpec) -> bool:
    return not isinstance(spec.deepspeed, NoDeepSpeed) or not isinstance(spec.fsdp, NoFsdp)


def _sharded(context: Context) -> Iterator[Change]:
    """Weights divided over the devices that are there."""
    spec, machine = context.spec, context.spec.hardware
    devices = machine.count if isinstance(machine, Device) and machine.device == "cuda" else 1
    plain = isinstance(spec.quantization, NoQuantization)
    eight_bit = isinstance(spec.optimizer, BitsAndBytesOptimizer)
    if devices < 2 or _is_sharded(spec) or not plain or eight_bit:  # LF420, LF421
        return
    share = int(spec.trainer.global_batch) // devices
    words = "launch=torchrun fsdp=full_shard"
    if share * devices != int(spec.trainer.global_batch):
        return
    most = int(spec.trainer.micro_batch)
    micro = max(n for n in range(1, share + 1) if share % n == 0 and n <= most)
    yield (
        f"{words} trainer.micro_batch={micro} trainer.accumulation={share // micro}",
        {
            "launch.processes": devices,
            "fsdp.": _shipped(spec, "fsdp=full_shard"),
            **_batch(context, micro, share // micro),
        },
    )


def _lighter_state(context: Context) -> Iterator[Change]:
    """Optimizer state in 8 bits, the same method otherwise."""
    spec, machine = context.spec, context.spec.hardware
    on_gpu = isinstance(machine, Device) and machine.device == "cuda"
    if isinstance(spec.optimizer, AdamW) and on_gpu and not _is_sharded(spec):
        chosen = _shipped(spec, "optimizer=adamw_8bit")
        rate = spec.optimizer.lr
        yield f"optimizer=adamw_8bit optimizer.lr={rate}", {"optimizer.": chosen}


def _lighter(context: Context) -> Iterator[Change]:
    """What changes numbers: a base of fewer bits, an adapter in place of all, a smaller rank."""
    spec = context.spec
    if isinstance(spec.lora, LowRank):
        rank = spec.lora.r
        while rank > 1:
            rank //= 2
            yield f"lora.r={rank}", {"lora.r": rank}
    if isinstance(spec.model, ScratchModel) or _is_sharded(spec):
        return
    full = isinstance(spec.lora, NoAdapter)
    ways: tuple[str, ...] = ("quantization=8bit", "quantization=4bit")
    if isinstance(spec.quantization, BitsAndBytes):
        ways = ("quantization=4bit",) if spec.quantization.bits == 8 else ()
    elif not isinstance(spec.quantization, NoQuantization):
        return
    elif full:
        ways = ("lora=small", "lora=small quantization=4bit")
    for words in ways:
        # formats as they are derived over such a base
        changes: dict[str, Any] = {"precision.weights": spec.precision.compute}
        if "quantization" in words:
            changes |= {"precision.norms": "float32", "precision.embeddings": "float32"}
        for word in words.split():
            changes[f"{word.partition('=')[0]}."] = _shipped(spec, word)
        yield words, changes


def _shipped(spec: RunSpec, choice: str) -> Any:
    """The section that an option stands for, with its shipped values."""
    section = choice.partition("=")[0]
    values = compose([choice]).values[section]
    return getattr(parse_or_fail({**spec.settings(), section: values}), section)
