"""Schema of how weights move: section `optimizer`.

In: nothing. Out: its spec classes, one per kind. Which of them `TrainingArguments` names and which
llmforge builds is `compiler/lower/optimizer.py`'s business. The learning rate over time is the
section `schedule` (`schema/schedule.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Auto, Effect, NonNegativeFloat, PositiveInt, Spec
from llmforge.schema.schedule import Constant, Cosine, Linear, ScheduleSpec

__all__ = [
    "Adafactor", "Adam", "AdamW", "AdamW8bit", "AdamWPaged", "BitsAndBytesOptimizer", "Constant",
    "Cosine", "Linear", "Lion", "Muon", "OptimizerFile", "OptimizerSpec", "ScheduleFree",
    "ScheduleSpec", "Sgd",
]  # fmt: skip

Rate = Annotated[float, Field(gt=0.0, le=10.0)]
Beta = Annotated[float, Field(ge=0.0, lt=1.0)]
Positive = Annotated[float, Field(gt=0.0)]


class OptimizerSpec(Spec):
    """What every optimizer has."""

    kind: str
    lr: Rate | Auto | None
    """Peak learning rate; null only where the optimizer sets its own (`relative_step`). `auto` is
    one of the three below, by what is trained."""
    lr_scratch: Annotated[Rate, Effect.BOOKKEEPING]
    """What `lr: auto` is for random weights."""
    lr_finetune: Annotated[Rate, Effect.BOOKKEEPING]
    """What `lr: auto` is for pretrained weights, all of them trained."""
    lr_adapter: Annotated[Rate, Effect.BOOKKEEPING]
    """What `lr: auto` is for an adapter over pretrained weights."""
    weight_decay: NonNegativeFloat
    """Decay of the weights per step, times the rate; norms and biases are left out unless
    `decay_norms` says otherwise."""
    clip_norm: NonNegativeFloat | None
    """Clip the global gradient norm to this; null clips nothing."""
    clip_value: Positive | None
    """Clip each element of the gradient to this, both ways; null clips nothing. Done once per
    optimizer step, on the accumulated and unscaled gradient."""
    decay_norms: bool
    """Decay norms and biases as well."""
    lora_plus_ratio: Annotated[float, Field(ge=1.0)] | None
    """LoRA+ (Hayou et al. 2024, arXiv 2402.12354): the adapter's B matrices learn at this many
    times the rate; null for the same rate. The paper's values are 8 to 16."""
    embedding_lr: Rate | None
    """Peak rate of the embeddings (a tied output head included); null for the rate of the rest."""
    layer_decay: Annotated[float, Field(gt=0.0, le=1.0)] | None
    """Factor on the rate per layer down from the output: the head learns at `lr`, the last layer
    at `layer_decay` times that, the one below at its square, the embeddings least; null for one
    rate. From ELECTRA (Clark et al. 2020, arXiv 2003.10555)."""


class AdamFields(OptimizerSpec):
    """What every relative of Adam has."""

    betas: list[Beta] = Field(min_length=2, max_length=2)
    """Decay of the first and second moment."""
    eps: Positive
    """Added to the second moment's root, so that nothing is divided by zero."""


class BitsAndBytesOptimizer(OptimizerSpec):
    """An optimizer of bitsandbytes, which has to be installed."""


@register("optimizer", "adamw")
class AdamW(AdamFields):
    """AdamW (Loshchilov & Hutter 2017, arXiv 1711.05101)."""

    kind: Literal["adamw"]
    fused: Annotated[bool | Auto, Effect.SPEED]
    """One kernel for the whole update; `auto` uses it where the installed torch has it."""


@register("optimizer", "adamw_8bit")
class AdamW8bit(AdamFields, BitsAndBytesOptimizer):
    """AdamW with 8-bit state (bitsandbytes; Dettmers et al. 2021, arXiv 2110.02861)."""

    kind: Literal["adamw_8bit"]
    paged: Annotated[bool, Effect.SPEED]
    """Let optimizer state spill to CPU memory when the GPU is full."""


@register("optimizer", "adamw_paged")
class AdamWPaged(AdamFields, BitsAndBytesOptimizer):
    """AdamW with 32-bit state that spills to CPU memory when the GPU is full (bitsandbytes)."""

    kind: Literal["adamw_paged"]


@register("optimizer", "adam", "llmforge.build.optimizer:adam")
class Adam(AdamFields):
    """Adam (Kingma & Ba 2014, arXiv 1412.6980): weight decay is added to the gradient."""

    kind: Literal["adam"]
    fused: Annotated[bool, Effect.SPEED]
    """One kernel for the whole update."""


@register("optimizer", "adamw_schedule_free", "llmforge.build.optimizer:schedule_free")
class ScheduleFree(AdamFields):
    """AdamW that averages its iterates in place of a falling rate (Defazio et al. 2024, arXiv
    2405.15682). Evaluated and saved are the averaged weights."""

    kind: Literal["adamw_schedule_free"]


@register("optimizer", "lion")
class Lion(BitsAndBytesOptimizer):
    """Lion (Chen et al. 2023, arXiv 2302.06675), by bitsandbytes: the sign of a momentum, so that
    one state is held per weight. Its rate is a third to a tenth of AdamW's."""

    kind: Literal["lion"]
    betas: list[Beta] = Field(min_length=2, max_length=2)
    """Weight of the momentum in the step, and its decay."""
    bits: Literal[8, 32]
    """Bits of each number of the state."""
    paged: Annotated[bool, Effect.SPEED]
    """Let optimizer state spill to CPU memory when the GPU is full."""


@register("optimizer", "muon", "llmforge.build.optimizer:muon")
class Muon(AdamFields):
    """Muon (Jordan et al. 2024): momentum made orthogonal, for the weight matrices of the layers.
    Embeddings, the output head, norms and biases are moved by AdamW."""

    kind: Literal["muon"]
    momentum: Beta
    """Decay of the momentum of the matrices."""
    nesterov: bool
    """Look one momentum step ahead."""
    orthogonal_steps: PositiveInt
    """Newton-Schulz iterations per step."""
    adjust: Literal["original", "match_rms_adamw"]
    """How the rate follows a matrix's shape: `match_rms_adamw` makes steps as large as AdamW's
    (Liu et al. 2025, arXiv 2502.16982), so that its rate and decay can be used."""
    adamw_lr: Rate | None
    """Peak rate of what AdamW moves; null for `lr`."""


@register("optimizer", "adafactor", "llmforge.build.optimizer:adafactor")
class Adafactor(OptimizerSpec):
    """Adafactor (Shazeer & Stern 2018, arXiv 1804.04235): factored second moment."""

    kind: Literal["adafactor"]
    clip_threshold: Positive
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


@register("optimizer", "file")
class OptimizerFile(Spec):
    """A JSON preset of Void-Trainer. Compiling replaces this section with what the file says, so
    that a plan never holds this kind."""

    kind: Literal["file"]
    path: str
    """The preset, from the working folder."""
