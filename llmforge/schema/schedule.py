"""Schema of the learning rate over time: section `schedule`.

In: nothing. Out: its spec classes, one per kind. All start with a linear warm-up to the peak
(`optimizer.lr`, and the rates of separate parameter groups alike) and then follow their course.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Fraction, PositiveInt, Spec, Warmup


class ScheduleSpec(Spec):
    """The learning rate over time: linear warm-up to the peak, then the kind's course."""

    kind: str
    warmup: Warmup
    """Optimizer steps of linear warm-up, or a share of the run such as `3%`."""


@register("schedule", "constant")
class Constant(ScheduleSpec):
    """Stays at the peak."""

    kind: Literal["constant"]


@register("schedule", "linear")
class Linear(ScheduleSpec):
    """Falls in a straight line to zero."""

    kind: Literal["linear"]


@register("schedule", "cosine")
class Cosine(ScheduleSpec):
    """Falls along half a cosine to `floor` times the peak."""

    kind: Literal["cosine"]
    floor: Fraction
    """Final rate as a share of the peak."""


@register("schedule", "cosine_restarts")
class CosineRestarts(ScheduleSpec):
    """Falls along half a cosine to zero, several times (Loshchilov & Hutter 2016, arXiv
    1608.03983)."""

    kind: Literal["cosine_restarts"]
    cycles: PositiveInt
    """How often it falls; each cycle takes the same number of steps."""


@register("schedule", "polynomial")
class Polynomial(ScheduleSpec):
    """Falls along a power of the share of steps that are left."""

    kind: Literal["polynomial"]
    power: Annotated[float, Field(gt=0.0)]
    """1 is a straight line, 2 a parabola that flattens towards the end."""
    floor: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Final rate as a share of the peak."""


@register("schedule", "inverse_sqrt")
class InverseSqrt(ScheduleSpec):
    """Falls with the root of the step: needs no end, so that a run can be made longer."""

    kind: Literal["inverse_sqrt"]
    timescale: PositiveInt | None
    """Steps after warm-up until the rate is 0.71 of the peak; null takes the warm-up's length, or
    10,000 without warm-up."""


@register("schedule", "multistep", "llmforge.build.schedules:multistep")
class MultiStep(ScheduleSpec):
    """Falls by a factor at each of several moments."""

    kind: Literal["multistep"]
    milestones: list[PositiveInt] = Field(min_length=1)
    """The moments, rising, counted from the start of the run in `unit`."""
    gamma: Annotated[float, Field(gt=0.0, le=1.0)]
    """Factor on the rate at each milestone."""
    unit: Literal["steps", "batches", "epochs"]
    """What milestones count: optimizer steps, micro batches of one process (several of them make a
    step under accumulation), or epochs."""


@register("schedule", "wsd")
class WarmupStableDecay(ScheduleSpec):
    """Warm-up, a long stay at the peak, then a short fall (Hu et al. 2024, arXiv 2404.06395)."""

    kind: Literal["wsd"]
    decay: Warmup
    """Optimizer steps of the fall, or a share of the run such as `10%`."""
    shape: Literal["linear", "cosine", "1-sqrt"]
    """Course of the fall."""
    floor: Fraction
    """Rate at both ends, as a share of the peak: warm-up starts from it and the fall ends at it."""
