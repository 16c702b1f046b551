"""What of an adapter is written to the final folder.

In: a model with an adapter, and its gathered weights where it is sharded. Out: adapter_config.json
and adapter_model.safetensors that any engine reads: PiSSA, OLoRA, LoftQ and EVA are plain LoRA when
training is over. And the frozen base's own weights, for a base that has no other home.

This module does not write tokenizers or whole folders (`load.py`).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from safetensors.torch import save_file

from llmforge.build.adapter_start import ADAPTER, START, lora_layers

WEIGHTS = "adapter_model.safetensors"
_LORA = "LORA"


def save_adapter(model: PeftModel, folder: Path, state: dict[str, Any] | None = None) -> None:
    """Write the adapter's config and weights to `folder`.

    PiSSA and OLoRA train what they took out of the base; with A0 and B0 what they started with,
    B A - B0 A0 is the change to the original base, plain LoRA of twice the rank.

    Args:
        model: with one adapter.
        folder: made if it is missing.
        state: the model's whole state where it is sharded, else None.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.deepcopy(model.peft_config[ADAPTER])
    config.inference_mode = True
    # False: the embeddings are the base's; asking the hub whether they changed is what the
    # library's own default does
    weights = dict(get_peft_model_state_dict(model, state_dict=state, save_embedding_layers=False))
    if config.peft_type == _LORA:
        _from_the_base(model, config, weights)
        config.init_lora_weights, config.eva_config = True, None
    # tied weights are one tensor under two names, which the format refuses
    plain = {name: weight.detach().cpu().clone().contiguous() for name, weight in weights.items()}
    save_file(plain, str(folder / WEIGHTS), metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def _from_the_base(model: PeftModel, config: LoraConfig, weights: dict[str, torch.Tensor]) -> None:
    """Make weights and config of PiSSA and OLoRA those of a LoRA over the unchanged base."""
    changed = False
    for name, layer in lora_layers(model):
        start = getattr(layer, START, None)
        if start is None:
            continue
        key = f"base_model.model.{name}"
        a, b = weights[f"{key}.lora_A.weight"], weights[f"{key}.lora_B.weight"]
        a0, b0 = (matrix.to(a.device, a.dtype) for matrix in start)
        weights[f"{key}.lora_A.weight"] = torch.cat([a, a0], dim=0)
        weights[f"{key}.lora_B.weight"] = torch.cat([b, -b0], dim=1)
        changed = True
    if changed:
        # the scale must stay what it was: alpha / r, or alpha / sqrt(r)
        config.lora_alpha *= 2**0.5 if config.use_rslora else 2
        config.r *= 2


def base_weights(model: PeftModel, state: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The frozen base's own weights under their own names, out of a model with an adapter in it.

    Not for PiSSA and OLoRA, which change the base (`LF615` refuses them over a base from scratch).
    """
    config = model.peft_config[ADAPTER]
    prefix = "base_model." if config.is_prompt_learning else "base_model.model."
    own = {"modules_to_save"}
    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            own |= {*module.adapter_layer_names, *module.other_param_names}
    found: dict[str, Any] = {}
    for name, weight in (state if state is not None else model.state_dict()).items():
        plain = name.removeprefix(prefix)
        if plain == name or own & set(plain.split(".")):
            continue
        plain = plain.replace(".base_layer.", ".").replace(".original_module.", ".")
        found[plain] = weight
    return found
