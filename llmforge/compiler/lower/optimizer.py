"""Keywords of optimizer, its groups and clipping: in `TrainingArguments` where it has them.

In: a solved context. Out: keyword -> value and its source. The schedule stands in `schedule.py`.
"""

from __future__ import annotations

from llmforge import registry
from llmforge.compiler.context import Context
from llmforge.compiler.lower.base import Lowered
from llmforge.schema.optim import (
    Adafactor,
    Adam,
    AdamFields,
    AdamW,
    AdamW8bit,
    AdamWPaged,
    Lion,
    Muon,
    OptimizerSpec,
    ScheduleFree,
    Sgd,
)


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
    if isinstance(spec, AdamW | AdamW8bit | AdamWPaged | Lion):
        lowered |= {
            "adam_beta1": (spec.betas[0], "optimizer.betas"),
            "adam_beta2": (spec.betas[1], "optimizer.betas"),
        }
    if isinstance(spec, AdamW | AdamW8bit | AdamWPaged):
        lowered["adam_epsilon"] = (spec.eps, "optimizer.eps")
    if isinstance(spec, AdamW):
        name = "adamw_torch_fused" if spec.fused else "adamw_torch"
        lowered["optim"] = (name, "optimizer.fused")
    elif isinstance(spec, AdamW8bit):
        name = "paged_adamw_8bit" if spec.paged else "adamw_bnb_8bit"
        lowered["optim"] = (name, "optimizer.paged")
    elif isinstance(spec, AdamWPaged):
        lowered["optim"] = ("paged_adamw_32bit", "optimizer.kind")
    elif isinstance(spec, Lion):
        lowered["optim"] = (f"{'paged_' if spec.paged else ''}lion_{spec.bits}bit", "optimizer")
    return lowered


def optimizer_kwargs(context: Context) -> Lowered | None:
    """Keywords of optimizers that llmforge builds itself: TrainingArguments drops their fields."""
    spec = context.spec.optimizer
    lowered: Lowered = {"lr": (spec.lr, "optimizer.lr")}
    if isinstance(spec, Adam | ScheduleFree | Muon):
        lowered |= _moments(spec)
    if isinstance(spec, Sgd):
        return {**lowered, "momentum": (spec.momentum, "optimizer.momentum")}
    if isinstance(spec, Adam):
        return {**lowered, "fused": (spec.fused, "optimizer.fused")}
    if isinstance(spec, ScheduleFree):
        return lowered
    if isinstance(spec, Muon):
        other = "optimizer.lr" if spec.adamw_lr is None else "optimizer.adamw_lr"
        return {
            **lowered,
            "momentum": (spec.momentum, "optimizer.momentum"),
            "nesterov": (spec.nesterov, "optimizer.nesterov"),
            "ns_steps": (spec.orthogonal_steps, "optimizer.orthogonal_steps"),
            "adjust_lr_fn": (spec.adjust, "optimizer.adjust"),
            "adamw_lr": (spec.lr if spec.adamw_lr is None else spec.adamw_lr, other),
        }
    if isinstance(spec, Adafactor):
        return {
            **lowered,
            "clip_threshold": (spec.clip_threshold, "optimizer.clip_threshold"),
            "decay_rate": (spec.decay_rate, "optimizer.decay_rate"),
            "scale_parameter": (spec.scale_parameter, "optimizer.scale_parameter"),
            "relative_step": (spec.relative_step, "optimizer.relative_step"),
            "warmup_init": (spec.warmup_init, "optimizer.warmup_init"),
        }
    component = registry.component("optimizer", spec.kind)
    if component.is_own:
        fields = set(component.spec.model_fields) - set(OptimizerSpec.model_fields)
        own = {name: (getattr(spec, name), f"optimizer.{name}") for name in sorted(fields)}
        return {**lowered, **own}
    return None


def _moments(spec: AdamFields) -> Lowered:
    return {"betas": (spec.betas, "optimizer.betas"), "eps": (spec.eps, "optimizer.eps")}


def parameter_groups(context: Context) -> Lowered:
    """What distinguishes the groups that `build/groups.py` makes of the parameters."""
    spec = context.spec.optimizer
    return {
        "lr": (spec.lr, "optimizer.lr"),
        "weight_decay": (spec.weight_decay, "optimizer.weight_decay"),
        "decay_norms": (spec.decay_norms, "optimizer.decay_norms"),
        "lora_plus_ratio": (spec.lora_plus_ratio, "optimizer.lora_plus_ratio"),
        "embedding_lr": (spec.embedding_lr, "optimizer.embedding_lr"),
        "layer_decay": (spec.layer_decay, "optimizer.layer_decay"),
        "matrices_apart": (isinstance(spec, Muon), "optimizer.kind"),
    }


def clipping(context: Context) -> Lowered:
    """Clipping that `TrainingArguments` does not know."""
    return {"value": (context.spec.optimizer.clip_value, "optimizer.clip_value")}
