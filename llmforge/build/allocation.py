"""AdaLoRA's allocation of ranks, once per optimizer step.

In: a model of kind `adalora` in training. Out: nothing; singular values that are given up are set
to zero. Their rows stay, so that every checkpoint has the same shapes, and the final adapter works
the same with them as without.

This module does not score importance: PEFT's allocator does.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.plan import Plan

_MEAN, _SPREAD, _KEPT = "adalora_mean", "adalora_spread", "adalora_kept"
"""Entries of the optimizer's state: what the allocator knows is saved and resumed with it."""


class RankAllocation(TrainerCallback):  # type: ignore[misc]
    """Lets ranks go as `lora.warmup`, `lora.interval` and `lora.final` say."""

    def on_optimizer_step(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        optimizer: Any = None,
        **kwargs: Any,
    ) -> None:
        """The step is taken and its gradients are still there: the moment PEFT asks for."""
        del args, control, kwargs
        tuner = model.base_model
        config, allocator = tuner.peft_config["default"], tuner.rankallocator
        step = state.global_step + 1
        last = config.total_step - config.tfinal
        weights = {n: p for n, p in tuner.model.named_parameters() if "lora_" in n}
        known = optimizer.state
        if step > last:
            # momentum moves what was given up a little at every step
            kept = {n: known[p][_KEPT] for n, p in weights.items() if _KEPT in known.get(p, {})}
            for name, mask in kept.items():
                weights[name].data.mul_(mask)
            return
        _remember(allocator, weights, known)
        _, pattern = allocator.update_and_allocate(tuner.model, step, force_mask=step == last)
        for name, mean in allocator.exp_avg_ipt.items():
            known[weights[name]][_MEAN] = mean
            known[weights[name]][_SPREAD] = allocator.exp_avg_unc[name]
        if step == last:
            for name, mask in pattern.items():
                weight = weights[name]
                known[weight][_KEPT] = torch.tensor(mask, device=weight.device).float()[:, None]


def _remember(allocator: Any, weights: dict[str, torch.Tensor], known: Any) -> None:
    """Give the allocator what the optimizer's state holds; after a resume it has nothing."""
    for name, weight in weights.items():
        held = known.get(weight, {})
        if _MEAN in held:
            allocator.ipt.setdefault(name, torch.zeros_like(weight))
            allocator.exp_avg_ipt[name] = held[_MEAN]
            allocator.exp_avg_unc[name] = held[_SPREAD]


def adapter_callbacks(plan: Plan) -> list[TrainerCallback]:
    """What an adapter does while training, of those that do something."""
    return [RankAllocation()] if plan.spec.lora.kind == "adalora" else []
