"""Which linear modules an adapter wraps, and how many parameters it trains.

In: facts, and targets as PEFT's `target_modules` has them. Out: modules in order, counts.
Equal to what PEFT does (the tests compare the two); embeddings, which PEFT can wrap too, are no
linear modules and never in the result.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmforge.compiler.facts.families.base import LinearModule, ModelFacts


def match_modules(facts: ModelFacts, targets: str | Sequence[str]) -> tuple[LinearModule, ...]:
    """The linear modules that PEFT wraps for `target_modules=targets`, in the model's order.

    "all-linear" (in any case) is all but the output head; another string is a regular expression
    for the whole name; a list holds whole names or their endings after a dot.
    """
    if isinstance(targets, str) and targets.lower() == "all-linear":
        return tuple(m for m in facts.linear_modules if m.role != "head")
    if isinstance(targets, str):
        return tuple(m for m in facts.linear_modules if re.fullmatch(targets, m.name))
    endings = tuple(f".{target}" for target in targets)
    return tuple(m for m in facts.linear_modules if f".{m.name}".endswith(endings))


def lora_parameters(modules: Sequence[LinearModule], r: int) -> int:
    """Trainable parameters of LoRA at rank r: A is r x in and B is out x r for each module."""
    return sum(r * (module.in_features + module.out_features) for module in modules)
