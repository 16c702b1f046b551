"""What follows from lengths and sizes: batch arithmetic, steps, intervals.

In: spec and facts. Out: solved batch sizes, warm-up and intervals in optimizer steps, and the
run's length as facts. Impossible arithmetic is left as it is here; `rules/batch.py` refuses it.
"""

from __future__ import annotations

import math

from llmforge.compiler.context import Context, Derived, Step
from llmforge.schema.base import epochs_of, share_of

_DUST = 1e-9
"""7% of 100 is 7.000000000000001 in floating point, and yet 7 steps."""

TOKENS_PER_PASS = 16_384
"""Tokens per forward pass from which a larger one trains no faster."""


def derive_batch(context: Context) -> Step:
    """Solve global = micro x accumulation x processes for what is `auto`."""
    trainer = context.spec.trainer
    world = _processes(context)
    total = trainer.global_batch
    found: list[Derived] = []
    micro = trainer.micro_batch
    assert isinstance(micro, int)  # noqa: S101 - derive_memory ran before
    if isinstance(trainer.accumulation, int):
        passes = trainer.accumulation
    else:
        passes = max(1, total // (micro * world)) if isinstance(total, int) else 1
        found.append(
            Derived(
                "trainer.accumulation",
                passes,
                "global batch / (micro batch x processes)",
                ("trainer.global_batch", "trainer.micro_batch", "launch.processes"),
            )
        )
    if not isinstance(total, int):
        found.append(
            Derived(
                "trainer.global_batch",
                micro * passes * world,
                "micro batch x accumulation x processes",
                ("trainer.micro_batch", "trainer.accumulation", "launch.processes"),
            )
        )
    return Step(tuple(found))


def micro_batches(context: Context) -> tuple[list[int], str]:
    """Micro batches that could be, the fastest first, and why it is the first if memory allows."""
    trainer, length = context.spec.trainer, context.spec.collator.max_length
    world = _processes(context)
    if isinstance(trainer.micro_batch, int):
        return [trainer.micro_batch], "as asked"
    tokens = (length if isinstance(length, int) else 2048) * trainer.SEQUENCES
    fitting = max(1, TOKENS_PER_PASS // tokens)
    if not isinstance(trainer.global_batch, int):
        sizes = [fitting // 2**halved for halved in range(fitting.bit_length())]
        return sizes, f"{TOKENS_PER_PASS:,} tokens per forward pass"
    if isinstance(trainer.accumulation, int):
        share = max(1, trainer.global_batch // (world * trainer.accumulation))
        return [share], "global batch over processes and accumulation"
    share = max(1, trainer.global_batch // world)
    sizes = [n for n in range(min(share, fitting), 0, -1) if share % n == 0]
    return sizes, (
        f"largest divisor of {share} samples per process within "
        f"{TOKENS_PER_PASS:,} tokens per forward pass"
    )


def _processes(context: Context) -> int:
    world = context.spec.launch.processes
    return world if isinstance(world, int) else 1


def derive_steps(context: Context) -> Step:
    """Length of the run in optimizer steps; the last, smaller batch of an epoch is a step too."""
    trainer, samples = context.spec.trainer, context.facts.samples
    per_epoch = None
    if samples is not None and isinstance(trainer.global_batch, int):
        per_epoch = max(1, math.ceil(samples.count / trainer.global_batch))
    steps = trainer.max_steps
    if steps is None and trainer.epochs is not None and per_epoch is not None:
        steps = math.ceil(float(trainer.epochs) * per_epoch)
    return Step(facts={"steps_per_epoch": per_epoch, "steps": steps})


def derive_intervals(context: Context) -> Step:
    """Shares of the run and epochs become optimizer steps."""
    spec, facts = context.spec, context.facts
    found: list[Derived] = []
    intervals = {
        "trainer.log_every": spec.trainer.log_every,
        "evaluation.every": spec.evaluation.every,
        "checkpoint.every": spec.checkpoint.every,
    }
    if facts.steps is None:
        return Step()
    for key, value in intervals.items():
        share = share_of(value)
        if share is not None:
            # rounded down, so that 25% is four times a run and never three
            steps = max(1, math.floor(share * facts.steps + _DUST))
            found.append(
                Derived(key, steps, f"{value} of {facts.steps} steps", ("estimate.steps",))
            )
            continue
        epochs = epochs_of(value)
        if epochs is not None and facts.steps_per_epoch is not None:
            steps = max(1, math.floor(epochs * facts.steps_per_epoch + _DUST))
            why = "steps of one epoch"
            if epochs != 1:
                why = f"{epochs:g} of the {facts.steps_per_epoch} steps of an epoch"
            found.append(Derived(key, steps, why, ("estimate.steps",)))
    delay = spec.evaluation.delay
    share = share_of(delay)
    if share is not None:
        # rounded up: nothing is evaluated before the share is over
        steps = math.ceil(share * facts.steps - _DUST)
        why = f"{delay} of {facts.steps} steps"
        found.append(Derived("evaluation.delay", steps, why, ("estimate.steps",)))
    share = share_of(spec.schedule.warmup)
    if share is not None:
        steps = math.ceil(share * facts.steps - _DUST)
        if share < 1:
            steps = min(steps, facts.steps - 1)  # of a run of one step nothing is warm-up
        why = f"{spec.schedule.warmup} of {facts.steps} steps"
        found.append(Derived("schedule.warmup", steps, why, ("estimate.steps",)))
    asked = {**intervals, "schedule.warmup": spec.schedule.warmup, "evaluation.delay": delay}
    # a share of given steps is a number, whatever the samples are
    follow = {
        item.key: asked[item.key]
        for item in found
        if spec.trainer.max_steps is None or epochs_of(asked[item.key]) is not None
    }
    return Step(tuple(found), {"asked": follow})
