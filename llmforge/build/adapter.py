"""Adapters: a frozen base and a small trainable part around it.

In: a plan and a model. Out: the model wrapped by PEFT, its trainable weights in float32, and a
count of what is trained. One builder per kind of the `lora` section.

This module does not choose target modules (the compiler did), does not compute special starts
(`adapter_start.py`), and does not write the final folder (`adapter_files.py`).
"""

from __future__ import annotations

from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    EvaConfig,
    IA3Config,
    LoraConfig,
    PeftConfig,
    PrefixTuningConfig,
    PromptTuningConfig,
    VeraConfig,
    get_peft_model,
)
from peft.tuners.tuners_utils import BaseTunerLayer

from llmforge.build.adapter_start import keep_start, undo_rounding
from llmforge.build.formats import hold_adapter
from llmforge.build.placing import start_adapter_here
from llmforge.build.quantized import packed_linears, packed_parameters
from llmforge.plan import Plan
from llmforge.schema.adapter import Lora, TargetedAdapter


def wrap_lora(plan: Plan, model: Any) -> Any:
    """Builder of `lora.kind=lora`, with every `init`.

    Raises:
        ValueError: `lora.targets` hit no module, or fewer than `lora.expect_modules`; a start that
            needs the base's own weights did not find them.
    """
    wrapped = _wrap(plan, model, LoraConfig(**plan.lowered["lora_config"]))
    adapter = plan.spec.lora
    if isinstance(adapter, Lora) and adapter.init == "loftq":
        undo_rounding(plan, wrapped)
    elif isinstance(adapter, Lora) and adapter.init in ("pissa", "olora"):
        keep_start(wrapped)
    return wrapped


def wrap_eva(plan: Plan, model: Any) -> Any:
    """Builder of `lora.kind=eva`; `adapter_start.start_from_data` then looks at the data."""
    keywords = dict(plan.lowered["lora_config"])
    keywords["eva_config"] = EvaConfig(**keywords["eva_config"])
    return _wrap(plan, model, LoraConfig(**keywords))


def wrap_vera(plan: Plan, model: Any) -> Any:
    """Builder of `lora.kind=vera`."""
    return _wrap(plan, model, VeraConfig(**plan.lowered["lora_config"]))


def wrap_adalora(plan: Plan, model: Any) -> Any:
    """Builder of `lora.kind=adalora`; its ranks move only under `allocation.RankAllocation`."""
    wrapped = _wrap(plan, model, AdaLoraConfig(**plan.lowered["lora_config"]))
    for name, weight in wrapped.named_parameters():
        if "ranknum" in name:
            # the number that updates are divided by; PEFT trains it once it has cast the adapter
            weight.requires_grad_(False)
    return wrapped


def wrap_ia3(plan: Plan, model: Any) -> Any:
    """Builder of `lora.kind=ia3`."""
    return _wrap(plan, model, IA3Config(**plan.lowered["lora_config"]))


def wrap_prompt(plan: Plan, model: Any) -> Any:
    """Builder of `lora.kind=prompt`; its logits are those of the real tokens."""
    wrapped = _wrap(plan, model, PromptTuningConfig(**plan.lowered["lora_config"]))
    return real_positions_only(wrapped)


def wrap_prefix(plan: Plan, model: Any) -> Any:
    """Builder of `lora.kind=prefix`."""
    return _wrap(plan, model, PrefixTuningConfig(**plan.lowered["lora_config"]))


def _wrap(plan: Plan, model: Any, config: PeftConfig) -> Any:
    """What all kinds share.

    The base's norms and embeddings have their format already (`formats.py`), PEFT freezes it. With
    gradient checkpointing the embedding's output is made to need gradients, without which a frozen
    base would pass none on.
    """
    arguments = plan.lowered["training_arguments"]
    checkpointing = bool(arguments.get("gradient_checkpointing"))
    if getattr(config, "target_modules", None) == "all-linear":
        config.target_modules = packed_linears(model) or config.target_modules
    wrapped = get_peft_model(model, config, autocast_adapter_dtype=True)
    _check_count(plan, wrapped)
    start_adapter_here(plan, wrapped)
    hold_adapter(plan, wrapped)
    if checkpointing:
        wrapped.enable_input_require_grads()
    return wrapped


def _check_count(plan: Plan, wrapped: Any) -> None:
    adapter = plan.spec.lora
    if not isinstance(adapter, TargetedAdapter):
        return
    found = sum(isinstance(module, BaseTunerLayer) for module in wrapped.modules())
    if found < adapter.expect_modules:
        raise ValueError(
            f"lora.targets hit {found} modules, lora.expect_modules asks for "
            f"{adapter.expect_modules}"
        )


def real_positions_only(wrapped: Any) -> Any:
    """Drop the virtual tokens' logits from what a prompt-tuned model returns.

    PEFT returns one row of logits more for every virtual token, before those of the text; whoever
    compares logits with labels would compare the wrong ones.

    Returns:
        The same model.
    """
    tokens = wrapped.active_peft_config.num_virtual_tokens

    def drop(_: Any, __: Any, outputs: Any) -> Any:
        outputs.logits = outputs.logits[:, tokens:]
        return outputs

    wrapped.register_forward_hook(drop)
    return wrapped


def trainable_share(model: torch.nn.Module) -> dict[str, Any]:
    """`{"trainable": n, "total": m, "share": n / m}`, in parameters.

    A 4-bit weight counts as the parameters it stands for, not as the bytes it is packed into (GPTQ
    has no parameters at all, only buffers), and one that ZeRO-3 has sharded counts whole.
    """
    trainable, total = 0, packed_parameters(model)
    for parameter in model.parameters():
        count = getattr(parameter, "ds_numel", parameter.numel())
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            count = int(torch.Size(state.shape).numel())
        total += count
        trainable += count if parameter.requires_grad else 0
    return {"trainable": trainable, "total": total, "share": trainable / total if total else 0.0}
