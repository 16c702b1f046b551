"""Schema of what is trained instead of all weights: section `lora`.

In: nothing. Out: its spec classes, one per kind. Which modules a target hits is worked out by
`compiler/facts/targets.py`; what cannot work together is refused by `compiler/rules/adapter.py`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Fraction, NonNegativeFloat, NonNegativeInt, PositiveInt, Spec
from llmforge.schema.base import Warmup as Share

Targets = str | list[str]


class AdapterSpec(Spec):
    """What is trained instead of all weights."""

    kind: str


@register("lora", "none")
class NoAdapter(AdapterSpec):
    """Full fine-tuning."""

    kind: Literal["none"]


class TargetedAdapter(AdapterSpec):
    """A small trainable part at each of some modules, over a frozen base."""

    targets: Targets
    """`all-linear` (every linear layer but the output head and, in a mixture of experts, the
    router; experts are stacked and no linear layers); roles, which fit every architecture:
    `role:attention`, `role:mlp`, or parts of these joined by `+` (`role:query+value`; the parts are
    query, key, value, output, gate, up, down); names of modules; or a regular expression that
    matches whole module names."""
    modules_to_save: list[str]
    """Modules trained and saved whole beside the adapter (embeddings for new tokens, heads): every
    module whose name ends so. An embedding that is tied to the output head stays tied."""
    expect_modules: NonNegativeInt
    """Refuse the plan when `targets` hits fewer modules than this; 0 asks for at least one."""


class LowRank(TargetedAdapter):
    """What the kinds of low-rank adapters share."""

    r: PositiveInt
    """Rank of the update."""
    alpha: PositiveInt
    """Numerator of the scale: alpha / r, or alpha / sqrt(r) with `rslora`."""
    dropout: Fraction
    """Dropout on the adapter's input."""
    bias: Literal["none", "all", "lora_only"]
    """Which biases are trained as well: none, every one, or those of the adapted modules."""
    rslora: bool
    """Rank-stabilised scale (Kalajdzievski 2023, arXiv 2312.03732)."""
    dora: bool
    """Weight-decomposed adapters: the length of each row of a weight is trained apart from its
    direction (Liu et al. 2024, arXiv 2402.09353)."""
    expect_bits: Literal[4, 8] | None
    """Refuse the plan unless the base is held in this many bits; null takes any base. The presets
    `8bit_*` and `4bit_*` are made for one width."""


@register("lora", "lora", "llmforge.build.adapter:wrap_lora")
class Lora(LowRank):
    """Low-rank adapters (Hu et al. 2021, arXiv 2106.09685)."""

    kind: Literal["lora"]
    init: Literal["default", "gaussian", "orthogonal", "pissa", "olora", "loftq"]
    """Where training starts. `default`: A random, B zero, so the model starts as its base.
    `gaussian`: A normal with deviation 1 / r, B zero. `orthogonal`: random A and B with rows
    orthogonal to each other. `pissa`: the r largest singular vectors of each weight, taken out of
    the base (Meng et al. 2024, arXiv 2404.02948). `olora`: the same by QR (Buyukakyuz 2024, arXiv
    2406.01775). `loftq`: what 4-bit rounding took from each weight, as far as rank r holds it
    (Li et al. 2023, arXiv 2310.08659, one iteration). The final adapter of each is plain LoRA over
    the unchanged base; of `pissa` and `olora` it has rank 2 r."""


@register("lora", "eva", "llmforge.build.adapter:wrap_eva")
class Eva(LowRank):
    """LoRA that starts along the directions in which the training data vary most at each module
    (Paischer et al. 2024, arXiv 2410.07170)."""

    kind: Literal["eva"]
    similarity: Fraction
    """The directions are settled when those of two batches have at least this cosine."""
    batches: PositiveInt
    """Training batches looked at, at most, before training; directions that have not settled by
    then end the run with what to change."""


@register("lora", "vera", "llmforge.build.adapter:wrap_vera")
class Vera(TargetedAdapter):
    """Two frozen random matrices shared by all modules, two trained vectors for each (Kopiczko et
    al. 2023, arXiv 2310.11454)."""

    kind: Literal["vera"]
    r: PositiveInt
    """Rows of the shared matrix; take more than for LoRA, each costs one parameter a module."""
    dropout: Fraction
    """Dropout on the adapter's input."""
    initial: NonNegativeFloat
    """Start value of the vector between the two matrices; the paper advises 0.1 or less."""
    save_projection: bool
    """Save the frozen matrices with the adapter. Without them they are drawn again from the seed,
    which other versions of torch may do otherwise."""
    bias: Literal["none", "all", "vera_only"]
    """Which biases are trained as well."""


@register("lora", "adalora", "llmforge.build.adapter:wrap_adalora")
class AdaLora(TargetedAdapter):
    """LoRA in the form of a singular value decomposition whose ranks go, while training, to the
    modules that need them (Zhang et al. 2023, arXiv 2303.10512)."""

    kind: Literal["adalora"]
    initial_r: PositiveInt
    """Rank of every module at the start."""
    target_r: PositiveInt
    """Mean rank at the end."""
    alpha: PositiveInt
    """Numerator of the scale alpha / initial_r."""
    dropout: Fraction
    """Dropout on the adapter's input."""
    bias: Literal["none", "all", "lora_only"]
    """Which biases are trained as well."""
    warmup: Share
    """Optimizer steps before ranks are first taken away, or a share of the run (`10%`)."""
    final: Share
    """Optimizer steps at the end during which ranks stay, or a share of the run (`20%`)."""
    interval: PositiveInt
    """Optimizer steps between two allocations."""
    sensitivity_decay: Fraction
    """Smoothing of how much each rank matters: weight of the past."""
    uncertainty_decay: Fraction
    """Smoothing of how much that varies: weight of the past."""
    orthogonality: NonNegativeFloat
    """Weight, in the loss, of keeping the singular vectors orthogonal."""


@register("lora", "ia3", "llmforge.build.adapter:wrap_ia3")
class Ia3(TargetedAdapter):
    """One trained factor per channel of keys, values and MLP (Liu et al. 2022, arXiv 2205.05638).
    The fewest parameters of all kinds; wants a high learning rate."""

    kind: Literal["ia3"]
    feedforward: Targets
    """Those of `targets` whose input is scaled, not their output: `role:down` as in the paper."""


class VirtualTokens(AdapterSpec):
    """Trained vectors before every text; the base stays as it is."""

    tokens: Annotated[int, Field(ge=1)]
    """How many; they count against the model's context."""


@register("lora", "prompt", "llmforge.build.adapter:wrap_prompt")
class PromptTuning(VirtualTokens):
    """Trained embeddings before every text (Lester et al. 2021, arXiv 2104.08691)."""

    kind: Literal["prompt"]
    init: Literal["uniform", "vocabulary"]
    """Start from uniform noise, or from the embeddings of tokens drawn by the run's seed."""


@register("lora", "prefix", "llmforge.build.adapter:wrap_prefix")
class PrefixTuning(VirtualTokens):
    """Trained keys and values before every text, in each layer (Li & Liang 2021, arXiv
    2101.00190), without the paper's reparametrising MLP."""

    kind: Literal["prefix"]
    init: Literal["normal", "zero"]
    """Start from normal noise, or from zeros."""


@register("lora", "file")
class LoraFile(Spec):
    """A JSON preset of Void-Trainer. Compiling replaces this section with what the file says, so
    that a plan never holds this kind."""

    kind: Literal["file"]
    path: str
    """The preset, from the working folder."""
