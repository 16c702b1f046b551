"""The smallest change that makes a plan fit.

In: a solved context that does not. Out: overrides to paste. Changes are tried from harmless to
drastic: smaller passes of the same batch, recomputing, a lean loss; then sharding, 8-bit state, a
smaller rank, fewer bits, an adapter; shorter rows last. Each is foretold by a sheet of its own, and
none that another rule refuses is offered.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmforge.compiler.context import Context
from llmforge.compiler.derive.kernels import lean_obstacle
from llmforge.compiler.memory.fit import batch_changes, can_recompute, shares, sheet_of
from llmforge.compiler.memory.sheet import is_sharded
from llmforge.compose import compose
from llmforge.schema import RunSpec
from llmforge.schema.adapter import LowRank, NoAdapter
from llmforge.schema.model import ScratchModel
from llmforge.schema.optim import AdamW, BitsAndBytesOptimizer
from llmforge.schema.precision import BitsAndBytes, NoQuantization
from llmforge.schema.run import Device
from llmforge.schema.train import LmTrainer
from llmforge.schema.typed import typed


def smallest_change(context: Context) -> str | None:
    """Overrides that make the plan fit, the ones that change results least; None: nothing helps."""
    for overrides, changes in _ladder(context):
        found = sheet_of(context, changes)
        if found is not None and found.fits:
            return overrides
    return None


Change = tuple[str, dict[str, Any]]


def _ladder(context: Context) -> Iterator[Change]:
    """Changes from harmless to drastic: first the speed pays, then the numbers."""
    smaller = list(_micro(context))
    lean = (*_checkpointing(context), *_lean_loss(context), *_no_reference_copy(context))
    yield from (*_evaluation(context), *smaller, *lean)
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


def _evaluation(context: Context) -> Iterator[Change]:
    """Smaller passes of evaluation, fewer answers at once: neither changes what is measured."""
    evaluation = context.spec.evaluation
    rows, answers = int(evaluation.micro_batch), int(evaluation.answers_at_once)
    fewer = [rows // 2**times for times in range(1, rows.bit_length())]
    fewer_answers = [answers // 2**times for times in range(1, answers.bit_length())]
    for count in fewer:
        yield _set("evaluation.micro_batch", count)
    for count in fewer_answers:
        yield _set("evaluation.answers_at_once", count)
    if fewer and fewer_answers:
        least = _set("evaluation.micro_batch", 1), _set("evaluation.answers_at_once", 1)
        yield _both(*least)


def _set(key: str, value: int) -> Change:
    return f"{key}={value}", {key: value}


def _micro(context: Context) -> Iterator[Change]:
    """Smaller micro batches of the same global batch."""
    for smaller in reversed(shares(context)):
        if smaller < int(context.spec.trainer.micro_batch):
            changes = batch_changes(context, smaller)
            passes = changes["trainer.accumulation"]
            yield f"trainer.micro_batch={smaller} trainer.accumulation={passes}", changes


def _checkpointing(context: Context) -> Iterator[Change]:
    if can_recompute(context.spec) and not context.spec.trainer.gradient_checkpointing:
        key = "trainer.gradient_checkpointing"
        yield f"{key}=true", {key: True}


def _lean_loss(context: Context) -> Iterator[Change]:
    trainer = context.spec.trainer
    whole = isinstance(trainer, LmTrainer) and trainer.loss_kernel == "full"
    if whole and lean_obstacle(context) is None:
        yield "trainer.loss_kernel=chunked", {"trainer.loss_kernel": "chunked"}


def _no_reference_copy(context: Context) -> Iterator[Change]:
    """The reference's log-probabilities computed once, before the first step."""
    if getattr(context.spec.trainer, "reference", None) == "copy":
        yield "trainer.reference=precomputed", {"trainer.reference": "precomputed"}


def _sharded(context: Context) -> Iterator[Change]:
    """Weights divided over the devices that are there."""
    spec, machine = context.spec, context.spec.hardware
    devices = machine.count if isinstance(machine, Device) and machine.device == "cuda" else 1
    plain = isinstance(spec.quantization, NoQuantization)
    eight_bit = isinstance(spec.optimizer, BitsAndBytesOptimizer)
    if devices < 2 or is_sharded(spec) or not plain or eight_bit:  # LF420, LF421
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
            **batch_changes(context, micro, share // micro),
        },
    )


def _lighter_state(context: Context) -> Iterator[Change]:
    """Optimizer state in 8 bits, the same method otherwise."""
    spec, machine = context.spec, context.spec.hardware
    on_gpu = isinstance(machine, Device) and machine.device == "cuda"
    if isinstance(spec.optimizer, AdamW) and on_gpu and not is_sharded(spec):
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
    if isinstance(spec.model, ScratchModel) or is_sharded(spec):
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
    return getattr(typed({**spec.settings(), section: values}), section)
