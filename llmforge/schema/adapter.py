"""Schema of what is trained instead of all weights: section `lora`.

In: nothing. Out: its spec classes. Which modules a pattern hits is the business of
`compiler/rules/model.py`.
"""

from __future__ import annotations

from typing import Literal

from llmforge.registry import register
from llmforge.schema.base import Fraction, NonNegativeInt, PositiveInt, Spec


class AdapterSpec(Spec):
    """What is trained instead of all weights."""

    kind: str


@register("lora", "none")
class NoAdapter(AdapterSpec):
    """Full fine-tuning."""

    kind: Literal["none"]


@register("lora", "lora", "llmforge.build.adapter:wrap_lora")
class Lora(AdapterSpec):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685)."""

    kind: Literal["lora"]
    r: PositiveInt
    """Rank of the update."""
    alpha: PositiveInt
    """Numerator of the scale: alpha / r, or alpha / sqrt(r) with `rslora`."""
    dropout: Fraction
    """Dropout on the adapter's input."""
    targets: str | list[str]
    """`all-linear` (every linear layer but the output head), names of modules, or a regular
    expression that matches whole module names."""
    bias: Literal["none", "all", "lora_only"]
    """Which biases are trained as well."""
    rslora: bool
    """Rank-stabilised scale (Kalajdzievski 2023, arXiv 2312.03732)."""
    dora: bool
    """Weight-decomposed adapters (Liu et al. 2024, arXiv 2402.09353)."""
    modules_to_save: list[str]
    """Modules trained and saved whole beside the adapters (new embeddings, heads)."""
    expect_modules: NonNegativeInt
    """Refuse the plan when `targets` hits fewer modules than this; 0 asks for at least one."""
