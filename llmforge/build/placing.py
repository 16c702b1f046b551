"""A model spread over devices, CPU and disk: what `model.device_map` asks for.

In: a plan and a loaded model. Out: checks of where its parts lie, and adapters with values where
PEFT left them without. The placing itself is transformers' and accelerate's.

This module does not shard over processes: that is the trainer's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.tuners.lora import LoraLayer

from llmforge.plan import Plan

ADAPTER = "default"


def placing_keywords(plan: Plan) -> dict[str, Any]:
    """`device_map` and `offload_folder` of `from_pretrained`; empty when nothing was asked."""
    asked = plan.lowered["model"].get("device_map")
    if asked is None:
        return {}
    folder = plan.lowered["model"].get("offload_folder")
    if folder is None:
        return {"device_map": asked}
    Path(folder).mkdir(parents=True, exist_ok=True)
    return {"device_map": asked, "offload_folder": str(folder)}


def offloaded(model: torch.nn.Module) -> list[str]:
    """Names of the parameters that are not held: they lie on the CPU of a GPU run, or on disk."""
    return [name for name, weight in model.named_parameters() if weight.device.type == "meta"]


def check_placing(plan: Plan, model: torch.nn.Module) -> None:
    """Raises `ValueError` when weights that are trained do not lie where they can be trained.

    The compiler cannot foresee what `device_map=auto` leaves over.
    """
    found = offloaded(model)
    if not found:
        return
    many = f"{len(found)} parameters ({found[0]}, ...) found no room on a device"
    if plan.spec.lora.kind == "none":
        raise ValueError(
            f"{many}, and all weights are trained; train an adapter (lora=small), shard over "
            "processes (deepspeed=stage3), or take out model.device_map"
        )
    if plan.spec.lora.kind != "lora":
        raise ValueError(
            f"{many}; of the adapters, only lora=small and its like can be put over such a base"
        )


def start_adapter_here(plan: Plan, wrapped: Any) -> None:
    """Give LoRA over offloaded modules its place and its values, drawn with the run's seed.

    PEFT puts an adapter where its module's weights lie, and offloaded ones lie nowhere until the
    module is called; without this the adapter would have no values at all.

    Raises:
        ValueError: an embedding or another module to be trained whole is offloaded.
    """
    frozen = {name for name, weight in wrapped.named_parameters() if not weight.requires_grad}
    if not set(offloaded(wrapped)) - frozen:
        return
    torch.manual_seed(plan.spec.seed)
    for module in wrapped.modules():
        if not isinstance(module, LoraLayer) or ADAPTER not in module.lora_A:
            continue
        if module.lora_A[ADAPTER].weight.device.type != "meta":
            continue
        hook = getattr(module.get_base_layer(), "_hf_hook", None)
        device = getattr(hook, "execution_device", None)
        for part in (module.lora_A, module.lora_B):
            part.to_empty(device="cpu" if device is None else device)
        module.reset_lora_parameters(ADAPTER, init_lora_weights=True)
    left = sorted(set(offloaded(wrapped)) - frozen)
    if left:
        raise ValueError(
            f"{left[0]} is trained and offloaded by model.device_map; take it out of "
            "lora.modules_to_save, or place it on a device"
        )
