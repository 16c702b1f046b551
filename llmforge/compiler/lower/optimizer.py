"""Keywords of optimizer and schedule: in `TrainingArguments` where it has them, else apart.

In: a solved context. Out: keyword -> value and its source.
"""

from __future__ import annotations

from llmforge.compiler.context import Context
from llmforge.compiler.lower.base import Lowered
from llmforge.schema.optim import Adafactor, AdamW, AdamW8bit, Cosine, Sgd


def optimizer(context: Context) -> Lowered:
    """What `TrainingArguments` has of the optimizer."""
    spec = context.spec.optimizer
    clip = spec.clip_norm if spec.clip_norm is not None else 0.0
    lowered: Lowered = {
        "weight_decay": (spec.weight_decay, "optimizer.weight_decay"),
        "max_grad_norm": (clip, "optimizer.clip_norm"),
    }
    if spec.lr is not None:
        lowered["learning_rate"] = (spec.lr, "optimizer.lr")
    if isinstance(spec, AdamW | AdamW8bit):
        lowered |= {
            "adam_beta1": (spec.betas[0], "optimizer.betas"),
            "adam_beta2": (spec.betas[1], "optimizer.betas"),
            "adam_epsilon": (spec.eps, "optimizer.eps"),
        }
    if isinstance(spec, AdamW):
        name = "adamw_torch_fused" if spec.fused else "adamw_torch"
        lowered["optim"] = (name, "optimizer.fused")
    elif isinstance(spec, AdamW8bit):
        name = "paged_adamw_8bit" if spec.paged else "adamw_bnb_8bit"
        lowered["optim"] = (name, "optimizer.paged")
    return lowered


def optimizer_kwargs(context: Context) -> Lowered | None:
    """Keywords of optimizers that llmforge builds itself: TrainingArguments drops their fields."""
    spec = context.spec.optimizer
    lowered: Lowered = {"lr": (spec.lr, "optimizer.lr")}
    if isinstance(spec, Sgd):
        return {**lowered, "momentum": (spec.momentum, "optimizer.momentum")}
    if isinstance(spec, Adafactor):
        return {
            **lowered,
            "clip_threshold": (spec.clip_threshold, "optimizer.clip_threshold"),
            "decay_rate": (spec.decay_rate, "optimizer.decay_rate"),
            "scale_parameter": (spec.scale_parameter, "optimizer.scale_parameter"),
            "relative_step": (spec.relative_step, "optimizer.relative_step"),
            "warmup_init": (spec.warmup_init, "optimizer.warmup_init"),
        }
    return None


def schedule(context: Context) -> Lowered:
    """What `TrainingArguments` has of the schedule."""
    spec = context.spec.schedule
    names = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine_with_min_lr"}
    lowered: Lowered = {
        "lr_scheduler_type": (names[spec.kind], "schedule.kind"),
        "warmup_steps": (spec.warmup, "schedule.warmup"),
    }
    if isinstance(spec, Cosine):
        lowered["lr_scheduler_kwargs"] = ({"min_lr_rate": spec.floor}, "schedule.floor")
    return lowered
