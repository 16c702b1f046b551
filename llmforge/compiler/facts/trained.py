"""How many parameters are trained, and how many there are then, by formulas.

In: `ModelFacts` and the `lora` section. Out: `Trained`, equal to what PEFT builds (the tests
compare the two for every kind, family and form of target), or None where the facts do not hold
the size of a module that is trained whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from llmforge.compiler.facts.families import LinearModule, ModelFacts
from llmforge.compiler.facts.others import other_modules
from llmforge.compiler.facts.targets import (
    embeddings_and_head,
    hit_modules,
    resolve,
    saved_modules,
)
from llmforge.schema.adapter import (
    AdaLora,
    AdapterSpec,
    Ia3,
    LowRank,
    NoAdapter,
    PrefixTuning,
    PromptTuning,
    TargetedAdapter,
    Vera,
)


@dataclass(frozen=True)
class Trained:
    """Counts of distinct parameters."""

    trainable: int
    """Those that receive gradients."""
    total: int
    """Those of the model with its adapter, and with both copies of what is trained whole."""

    @property
    def share(self) -> float:
        """Trained over all."""
        return self.trainable / self.total


def trained(model: ModelFacts, adapter: AdapterSpec) -> Trained | None:
    """What training changes; None where it depends on sizes that only the build knows.

    LoRA: r (in + out) for each module, and out for a DoRA magnitude. AdaLoRA: r more, its singular
    values, and one number beside them that is not trained. VeRA: out + r. IA3: in for a module
    whose input is scaled, out for another. Prompt tuning: one embedding per token. Prefix tuning: a
    key and a value per token and layer.
    """
    whole = model.parameters
    if isinstance(adapter, NoAdapter):
        return Trained(whole, whole)
    if isinstance(adapter, PromptTuning):
        added = adapter.tokens * model.hidden
        return Trained(added, whole + added)
    if isinstance(adapter, PrefixTuning):
        added = adapter.tokens * model.layers * 2 * model.kv_heads * model.head_dim
        return Trained(added, whole + added)
    if not isinstance(adapter, TargetedAdapter):
        return None
    modules = hit_modules(model, adapter)
    copies, biases = _copies(model, adapter), _biases(model, adapter, modules)
    if copies is None or biases is None:
        return None
    added = copies + sum(_at_each(model, adapter, modules))
    frozen = len(modules) if isinstance(adapter, AdaLora) else 0
    return Trained(added + biases, whole + added + frozen)


def _at_each(
    model: ModelFacts, adapter: TargetedAdapter, modules: Sequence[LinearModule]
) -> list[int]:
    """Parameters that each module gains."""
    if isinstance(adapter, LowRank):
        r, dora = adapter.r, int(adapter.dora)
        return [r * m.in_features + (r + dora) * m.out_features for m in modules]
    if isinstance(adapter, AdaLora):
        return [adapter.initial_r * (m.in_features + m.out_features + 1) for m in modules]
    if isinstance(adapter, Vera):
        return [m.out_features + adapter.r for m in modules]
    assert isinstance(adapter, Ia3)  # noqa: S101 - the kinds above are all others with targets
    scaled_input = set(resolve(model, adapter.feedforward))
    return [m.in_features if m in scaled_input else m.out_features for m in modules]


def _copies(model: ModelFacts, adapter: TargetedAdapter) -> int | None:
    """Parameters of the copies that are trained whole; None where a size is not known."""
    saved = saved_modules(model, adapter.modules_to_save)
    if adapter.modules_to_save and not saved:
        return None
    heads = {m.name: m for m in model.linear_modules if m.role == "head"}
    shared = embeddings_and_head(model) if model.tied_embeddings else ()
    total, once = 0, False
    for name in saved:
        kind = other_modules(model).get(name)
        if name in shared:
            once = True
        elif name in heads:
            total += heads[name].out_features * (heads[name].in_features + heads[name].bias)
        elif kind == "embedding":
            total += _table(model)
        elif kind == "positions":
            total += model.embedding_parameters - _table(model)
        else:
            return None
    return total + (_table(model) if once else 0)


def _table(model: ModelFacts) -> int:
    """Parameters of the token embedding: rows of the vocabulary, as wide as the head's input."""
    widths = [m.in_features for m in model.linear_modules if m.role == "head"]
    return model.vocabulary * (widths[0] if widths else model.hidden)


_LAYER_NORMS = ("gpt2", "gpt_neo", "gpt_neox", "gptj", "opt", "phi")
_RMS_NORMS = (
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "phi3", "olmo2",
    "smollm3",
)  # fmt: skip
"""Families without other weights than linear modules, embeddings and such norms."""


def _biases(
    model: ModelFacts, adapter: TargetedAdapter, modules: Sequence[LinearModule]
) -> int | None:
    """Biases of the base that are trained; None where they are not known."""
    asked = getattr(adapter, "bias", "none")
    if asked == "none":
        return 0
    if asked != "all":
        return sum(m.out_features for m in modules if m.bias)
    if adapter.modules_to_save:
        return None  # the copies hold biases too
    linear = [m for m in model.linear_modules if m.role != "head" or not model.tied_embeddings]
    biases = sum(m.out_features for m in model.linear_modules if m.bias)
    if model.family in _RMS_NORMS:
        return biases
    inside = sum(m.out_features * (m.in_features + m.bias) for m in linear)
    norms = model.parameters - model.embedding_parameters - inside
    # of a layer norm half the parameters are biases
    return biases + norms // 2 if model.family in _LAYER_NORMS else None
