"""Optimizers that `TrainingArguments` cannot name with all of their fields.

In: lowered keywords. Out: `(class, keywords)` as the Trainer's `optimizer_cls_and_kwargs` takes
them; the Trainer makes the parameter groups (no decay on norms and biases) and the instance. The
AdamW family is named by `TrainingArguments.optim` and does not come through here.
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
    """Class and keywords for the Trainer; None leaves the choice to `TrainingArguments.optim`."""
    keywords = plan.lowered["optimizer"]
    if keywords is None:
        return None
    choose = registry.component("optimizer", plan.settings["optimizer"]["kind"]).load_builder()
    chosen: OptimizerChoice = choose(keywords)
    return chosen


def adafactor(keywords: Mapping[str, Any]) -> OptimizerChoice:
    """Adafactor at a fixed rate."""
    return Adafactor, dict(keywords)


def sgd(keywords: Mapping[str, Any]) -> OptimizerChoice:
    """SGD with momentum."""
    return torch.optim.SGD, dict(keywords)
