"""Keywords of the schedule: in `TrainingArguments` where it has the kind, else apart.

In: a solved context. Out: keyword -> value and its source. Every length is in optimizer steps
here: shares of the run, micro batches and epochs are counted out.
"""

from __future__ import annotations

import math
from typing import Any

from llmforge.compiler.context import Context
from llmforge.compiler.lower.base import Lowered
from llmforge.schema.base import share_of
from llmforge.schema.schedule import (
    Cosine,
    CosineRestarts,
    InverseSqrt,
    MultiStep,
    Polynomial,
    WarmupStableDecay,
)

_NAMES = {
    "constant": "constant_with_warmup",
    "linear": "linear",
    "cosine": "cosine_with_min_lr",
    "cosine_restarts": "cosine_with_restarts",
    "polynomial": "polynomial",
    "inverse_sqrt": "inverse_sqrt",
    "wsd": "warmup_stable_decay",
}

_DUST = 1e-9
"""3% of 100 is 3.0000000000000004 in floating point: not four steps."""


def schedule(context: Context) -> Lowered:
    """What `TrainingArguments` has of the schedule."""
    spec = context.spec.schedule
    lowered: Lowered = {"warmup_steps": (spec.warmup, "schedule.warmup")}
    if spec.kind not in _NAMES:
        return lowered
    lowered["lr_scheduler_type"] = (_NAMES[spec.kind], "schedule.kind")
    own: tuple[dict[str, Any], str] | None = None
    if isinstance(spec, Cosine):
        own = {"min_lr_rate": spec.floor}, "schedule.floor"
    elif isinstance(spec, CosineRestarts):
        own = {"num_cycles": spec.cycles}, "schedule.cycles"
    elif isinstance(spec, Polynomial):
        # transformers asks for the final rate itself, and takes its share of `optimizer.lr`
        end = spec.floor * float(context.spec.optimizer.lr or 0.0)
        own = {"power": spec.power, "lr_end": end}, "schedule"
    elif isinstance(spec, InverseSqrt) and spec.timescale is not None:
        own = {"timescale": spec.timescale}, "schedule.timescale"
    elif isinstance(spec, WarmupStableDecay):
        steps = decay_steps(context, spec)
        own = (
            {"num_decay_steps": steps, "decay_type": spec.shape, "min_lr_ratio": spec.floor},
            "schedule",
        )
    if own is not None:
        lowered["lr_scheduler_kwargs"] = own
    return lowered


def schedule_kwargs(context: Context) -> Lowered | None:
    """Keywords of schedules that llmforge builds itself."""
    spec = context.spec.schedule
    if not isinstance(spec, MultiStep):
        return None
    return {
        "warmup": (spec.warmup, "schedule.warmup"),
        "milestones": (milestone_steps(context, spec), "schedule.milestones"),
        "gamma": (spec.gamma, "schedule.gamma"),
    }


def decay_steps(context: Context, spec: WarmupStableDecay) -> int | None:
    """Length of the fall in optimizer steps; None for a share of an unknown length."""
    share = share_of(spec.decay)
    if share is None:
        return int(spec.decay)
    steps = context.facts.steps
    return None if steps is None else math.ceil(share * steps - _DUST)


def milestone_steps(context: Context, spec: MultiStep) -> list[int] | None:
    """Milestones in optimizer steps; None when the length of an epoch is not known.

    A step moves by the whole of its micro batches, so a milestone within a step takes effect with
    the next one.
    """
    if spec.unit == "steps":
        return list(spec.milestones)
    if spec.unit == "batches":
        per_step = context.spec.trainer.accumulation
        return [math.ceil(mark / int(per_step)) for mark in spec.milestones]
    per_epoch = context.facts.steps_per_epoch
    return None if per_epoch is None else [mark * per_epoch for mark in spec.milestones]
