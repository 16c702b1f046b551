"""Gemma 3 from 4B on: a language model that also sees, with a SigLIP tower beside it.

In: the dict of a `config.json` of `model_type` gemma3 and the facts of its text part. Out:
`ModelFacts` of the whole, which is what `AutoModelForCausalLM` builds and holds in memory; sizes
such as layers and hidden are those of the language model. The tower's linear modules have the role
`vision`: "all-linear" adapts them, "attention" and "mlp" do not.

Other towers, and ones with a head, are left to the meta device (`UnknownFamily`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from llmforge.compiler.facts.families.base import (
    BadConfig,
    LinearModule,
    ModelFacts,
    UnknownFamily,
    linears,
)

_TEXT = {"model_type": "gemma3_text", "vocab_size": 262208, "num_attention_heads": 8}
"""What the text part's configuration class has where a config says nothing; hub configs do."""

_TOWER = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_channels": 3,
    "image_size": 224,
    "patch_size": 16,
}
"""Likewise for the tower."""


def gemma3(
    config: Mapping[str, Any], facts_of: Callable[[Mapping[str, Any]], ModelFacts]
) -> ModelFacts:
    """Facts of the whole model.

    Args:
        config: the whole `config.json`.
        facts_of: facts of the text part's config.
    """
    tied = config.get("tie_word_embeddings", True)
    text = facts_of({**_TEXT, **_part(config, "text_config"), "tie_word_embeddings": tied})
    tower = {**_TOWER, **_part(config, "vision_config")}
    if (
        tower.get("model_type") != "siglip_vision_model"
        or tower.get("vision_use_head") is not False
    ):
        raise UnknownFamily("gemma3 with another vision tower than the published models'")
    for key in _TOWER:
        if type(tower[key]) is not int or tower[key] < 1:
            raise BadConfig(f"vision_config.{key}", "must be a positive whole number")
    modules = _modules(tower)
    own = tuple(
        replace(module, name=module.name.replace("model.", "model.language_model.", 1))
        for module in text.linear_modules
    )
    seen = sum(module.parameters for module in modules) + _rest(tower, text.hidden)
    return replace(
        text,
        family="gemma3",
        architecture="Gemma3ForConditionalGeneration",
        parameters=text.parameters + seen,
        linear_modules=(*modules, *own),
    )


def _part(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    part = config.get(key)
    if not isinstance(part, dict):
        raise UnknownFamily(f"gemma3 without a {key}")
    return part


def _modules(tower: Mapping[str, int]) -> tuple[LinearModule, ...]:
    h, inner = tower["hidden_size"], tower["intermediate_size"]
    names = ("k_proj", "v_proj", "q_proj", "out_proj")
    attention = linears("vision", "self_attn.", **dict.fromkeys(names, (h, h, True)))
    layer = attention + linears("vision", "mlp.", fc1=(inner, h, True), fc2=(h, inner, True))
    return tuple(
        replace(module, name=f"model.vision_tower.encoder.layers.{index}.{module.name}")
        for index in range(tower["num_hidden_layers"])
        for module in layer
    )


def _rest(tower: Mapping[str, int], hidden: int) -> int:
    """Patches and their positions, layer norms, and the projection to the language model."""
    h, patch = tower["hidden_size"], tower["patch_size"]
    patches = h * tower["num_channels"] * patch**2 + h
    positions = (tower["image_size"] // patch) ** 2 * h
    norms = (2 * tower["num_hidden_layers"] + 1) * 2 * h
    return patches + positions + norms + h * hidden + h
