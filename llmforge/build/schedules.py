"""Learning rates over time that transformers does not have.

In: lowered keywords and the optimizer. Out: a scheduler of PyTorch, stepped once per optimizer
step. Each parameter group keeps its own peak: a schedule is a factor.

This module does not count anything out: milestones are optimizer steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from llmforge import registry
from llmforge.plan import Plan

MakeSchedule = Callable[[Optimizer], LRScheduler]


def schedule_choice(plan: Plan) -> MakeSchedule | None:
    """What makes the scheduler; None leaves it to `TrainingArguments.lr_scheduler_type`."""
    keywords = plan.lowered["schedule"]
    if keywords is None:
        return None
    build = registry.component("schedule", plan.settings["schedule"]["kind"]).load_builder()
    return partial(build, **keywords)


def multistep(
    optimizer: Optimizer, warmup: int, milestones: Sequence[int], gamma: float
) -> LambdaLR:
    """Builder of `schedule.kind=multistep`: the rate times `gamma` from each milestone on.

    Args:
        optimizer: whose groups' present rates are the peaks.
        warmup: optimizer steps of linear warm-up from 0.
        milestones: optimizer steps from the start of the run, rising.
        gamma: the factor.
    """
    # a partial of a plain function: the scheduler's state then holds numbers only
    factor = partial(_multistep_factor, warmup=warmup, milestones=tuple(milestones), gamma=gamma)
    return LambdaLR(optimizer, factor)


def _multistep_factor(
    step: int, *, warmup: int, milestones: tuple[int, ...], gamma: float
) -> float:
    fallen = gamma ** sum(mark <= step for mark in milestones)
    return fallen * step / warmup if step < warmup else fallen


class OwnRate(LRScheduler):  # type: ignore[misc]
    """For an optimizer that sets its own rate (Adafactor's relative step) and ignores that of its
    groups: reports 0, changes nothing."""

    def get_lr(self) -> list[float]:
        """One 0 per parameter group."""
        return [0.0 for _ in self.optimizer.param_groups]


def sets_its_own_rate(optimizer: Any) -> bool:
    """Has a group of this optimizer no rate for a schedule to change?"""
    return any(group["lr"] is None for group in optimizer.param_groups)
