"""Optimizers that `TrainingArguments` cannot name with all of their fields.

In: lowered keywords. Out: `(class, keywords)` as the Trainer's `optimizer_cls_and_kwargs` takes
them; the groups are made by `groups.py` and the instance by the Trainer. Those named by
`TrainingArguments.optim` do not come through here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from transformers.optimization import Adafactor

from llmforge import registry
from llmforge.plan import Plan

OptimizerChoice = tuple[type[torch.optim.Optimizer], dict[str, Any]]


def optimizer_choice(plan: Plan) -> OptimizerChoice | None:
    """Class and keywords for the Trainer; None leaves the choice to `TrainingArguments.optim`.

    Raises:
        TypeError: an optimizer of the user's own that is none.
    """
    keywords = plan.lowered["optimizer"]
    if keywords is None:
        return None
    component = registry.component("optimizer", plan.settings["optimizer"]["kind"])
    choose = component.load_builder()
    if isinstance(choose, type) and issubclass(choose, torch.optim.Optimizer):
        return choose, dict(keywords)  # one of the user's own
    chosen: OptimizerChoice = choose(keywords)
    if component.is_own and not _is_choice(chosen):
        raise TypeError(
            f"{component.builder} must be an optimizer's class, or a function that returns one and "
            f"its keywords, not {chosen!r:.60}"
        )
    return chosen


def _is_choice(chosen: Any) -> bool:
    if not (isinstance(chosen, tuple) and len(chosen) == 2 and isinstance(chosen[1], dict)):
        return False
    return isinstance(chosen[0], type) and issubclass(chosen[0], torch.optim.Optimizer)


def adafactor(keywords: Mapping[str, Any]) -> OptimizerChoice:
    """Adafactor, at the schedule's rate or its own."""
    return Adafactor, dict(keywords)


def sgd(keywords: Mapping[str, Any]) -> OptimizerChoice:
    """SGD with momentum."""
    return torch.optim.SGD, dict(keywords)


def adam(keywords: Mapping[str, Any]) -> OptimizerChoice:
    """Adam, weight decay in the gradient."""
    return torch.optim.Adam, dict(keywords)


def schedule_free(keywords: Mapping[str, Any]) -> OptimizerChoice:
    """Schedule-free AdamW; warm-up comes from the schedule, so the optimizer has none of its own.

    Raises:
        ImportError: `schedulefree` is not installed.
    """
    from schedulefree import AdamWScheduleFree

    return AdamWScheduleFree, {**keywords, "warmup_steps": 0}


def muon(keywords: Mapping[str, Any]) -> OptimizerChoice:
    """Muon for matrices, AdamW for the rest."""
    return MuonWithAdamW, dict(keywords)


class MuonWithAdamW(torch.optim.Optimizer):  # type: ignore[misc]
    """`torch.optim.Muon` and `torch.optim.AdamW` as one optimizer, with one state.

    Groups whose `matrix` is true are Muon's, the others AdamW's. Both work on this optimizer's own
    groups and state, so that schedules, checkpoints and loss scaling see one plain optimizer.

    Args:
        params: groups, each with `matrix`.
        lr: rate of the matrices; `adamw_lr` that of the rest.
        betas, eps: AdamW's.
        momentum, nesterov, ns_steps, adjust_lr_fn: Muon's.
    """

    def __init__(
        self,
        params: list[dict[str, Any]],
        lr: float,
        adamw_lr: float,
        betas: list[float],
        eps: float,
        momentum: float,
        nesterov: bool,
        ns_steps: int,
        adjust_lr_fn: str,
    ) -> None:
        for group in params:
            group.setdefault("lr", lr if group["matrix"] else adamw_lr)
        super().__init__(params, {"lr": lr})
        own = {"momentum": momentum, "nesterov": nesterov, "ns_steps": ns_steps}
        matrices = [group for group in self.param_groups if group["matrix"]]
        others = [group for group in self.param_groups if not group["matrix"]]
        self._parts: list[tuple[bool, torch.optim.Optimizer]] = []
        if matrices:
            inner = torch.optim.Muon(matrices, lr=lr, adjust_lr_fn=adjust_lr_fn, **own)
            self._parts.append((True, inner))
        if others:
            moments = (betas[0], betas[1])
            rest = torch.optim.AdamW(others, lr=adamw_lr, betas=moments, eps=eps)
            self._parts.append((False, rest))

    def step(self, closure: Any = None) -> Any:
        """One step of both."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for matrix, part in self._parts:
            # loading a checkpoint replaces groups and state: hand over what is in force now
            part.param_groups = [g for g in self.param_groups if g["matrix"] is matrix]
            part.state = self.state
            part.step()
        return loss
