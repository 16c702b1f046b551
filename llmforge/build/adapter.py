"""Adapters: a frozen base and a small trainable part around it.

In: a plan and a model. Out: the model wrapped by PEFT, its trainable weights in float32, and a
count of what is trained.

This module does not choose target modules: the compiler did, by exact names.
"""

from __future__ import annotations

from typing import Any

import torch
from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training
from peft.tuners.lora import LoraLayer

from llmforge.plan import Plan


def wrap_lora(plan: Plan, model: Any) -> Any:
    """Builder of `lora.kind=lora`.

    Under quantization the base is made ready first (norms in float32, gradients let through). With
    gradient checkpointing the embedding's output is made to need gradients, without which a frozen
    base would pass none on.

    Raises:
        ValueError: `lora.targets` hit no module, or fewer than `lora.expect_modules`.
    """
    arguments = plan.lowered["training_arguments"]
    checkpointing = bool(arguments.get("gradient_checkpointing"))
    if plan.lowered.get("quantization_config") is not None:
        model = prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs=arguments.get("gradient_checkpointing_kwargs"),
        )
    wrapped = get_peft_model(
        model, LoraConfig(**plan.lowered["lora_config"]), autocast_adapter_dtype=True
    )
    found = sum(isinstance(module, LoraLayer) for module in wrapped.modules())
    expected = getattr(plan.spec.lora, "expect_modules", 0)
    if found < expected:
        raise ValueError(
            f"lora.targets hit {found} modules, lora.expect_modules asks for {expected}"
        )
    if plan.settings["precision"]["compute"] != "float32":
        # PEFT holds adapters in float32, but not the modules that are trained whole beside them;
        # autocast takes care of the formats in the forward pass
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.data = weight.data.float()
    if checkpointing:
        wrapped.enable_input_require_grads()
    return wrapped


def trainable_share(model: torch.nn.Module) -> dict[str, Any]:
    """`{"trainable": n, "total": m, "share": n / m}`, in parameters.

    A 4-bit weight counts as the parameters it stands for, not as the bytes it is packed into, and
    one that ZeRO-3 has sharded counts whole.
    """
    trainable = total = 0
    for parameter in model.parameters():
        count = getattr(parameter, "ds_numel", parameter.numel())
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            count = int(torch.Size(state.shape).numel())
        total += count
        trainable += count if parameter.requires_grad else 0
    return {"trainable": trainable, "total": total, "share": trainable / total if total else 0.0}
