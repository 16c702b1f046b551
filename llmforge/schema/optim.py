"""Schema of how weights move: optimizer and schedule.

In: nothing. Out: spec classes for the sections `optimizer` and `schedule`. Each is lowered to
`TrainingArguments` keywords in `compiler/lower.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Auto, Effect, Fraction, NonNegativeFloat, Spec, Warmup

Rate = Annotated[float, Field(gt=0.0, le=10.0)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]


class OptimizerSpec(Spec):
    """What every optimizer has."""

    kind: str
    lr: Rate | None
    """Peak learning rate; null only where the optimizer sets its own (`relative_step`)."""
    weight_decay: NonNegativeFloat
    """Decoupled weight decay; norms and biases are left out."""
    clip_norm: NonNegativeFloat | None
    """Clip the global gradient norm to this; null clips nothing."""


@register("optimizer", "adamw")
class AdamW(OptimizerSpec):
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101)."""

    kind: Literal["adamw"]
    betas: list[Beta] = Field(min_length=2, max_length=2)
    """Decay of the first and second moment."""
    eps: Annotated[float, Field(gt=0.0)]
    """Added to the second moment's root, so that nothing is divided by zero."""
    fused: Annotated[bool | Auto, Effect.SPEED]
    """One kernel for the whole update; `auto` uses it where the installed torch has it."""


@register("optimizer", "adamw_8bit")
class AdamW8bit(OptimizerSpec):
    """AdamW with 8-bit state (bitsandbytes; Dettmers et al. 2021, arXiv 2110.02861)."""

    kind: Literal["adamw_8bit"]
    betas: list[Beta] = Field(min_length=2, max_length=2)
    """Decay of the first and second moment."""
    eps: Annotated[float, Field(gt=0.0)]
    """Added to the second moment's root, so that nothing is divided by zero."""
    paged: Annotated[bool, Effect.SPEED]
    """Let optimizer state spill to CPU memory when the GPU is full."""


@register("optimizer", "adafactor", "llmforge.build.optimizer:adafactor")
class Adafactor(OptimizerSpec):
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235): factored second moment."""

    kind: Literal["adafactor"]
    clip_threshold: Annotated[float, Field(gt=0.0)]
    """Root-mean-square threshold on the update."""
    decay_rate: float
    """Exponent of the second moment's running average."""
    scale_parameter: bool
    """Scale the learning rate by the parameter's root mean square."""
    relative_step: bool
    """Time-dependent learning rate of its own; `lr` is then null and the schedule is not used."""
    warmup_init: bool
    """With `relative_step`: start from a very small rate."""


@register("optimizer", "sgd", "llmforge.build.optimizer:sgd")
class Sgd(OptimizerSpec):
    """Stochastic gradient descent with momentum."""

    kind: Literal["sgd"]
    momentum: Beta
    """Share of the last step that is taken again; 0 is plain gradient descent."""


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
