"""A quantized base: packed while it is loaded, packed afterwards, or stored that way.

In: a plan, and what a checkpoint's config.json says of its own quantization. Out: keywords of
`from_pretrained`, or a model whose linear layers are bitsandbytes'.

This module does not quantize by calibration (GPTQ) and does not choose formats (`formats.py`).
"""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from transformers import BitsAndBytesConfig, GPTQConfig

from llmforge.plan import Plan
from llmforge.schema.precision import BitsAndBytes, Gptq


def load_keywords(plan: Plan, stored: Mapping[str, Any] | None) -> dict[str, Any]:
    """What `from_pretrained` is told about quantization; empty for plain weights.

    Args:
        plan: the plan.
        stored: `quantization_config` of the checkpoint, None for plain weights.

    Raises:
        ValueError: plan and checkpoint disagree, which the compiler could not see because the
            checkpoint was not in the local cache.
    """
    chosen, asked = plan.spec.quantization, plan.lowered.get("quantization_config")
    method = str(stored.get("quant_method", "unknown")) if stored else None
    if isinstance(chosen, Gptq):
        if stored is None or method != "gptq":
            raise ValueError(
                f"quantization=gptq needs a GPTQ checkpoint, and this one is {method or 'plain'}; "
                "quantization=none takes it as it is"
            )
        keywords = {**(asked or {}), "bits": stored["bits"]}
        return {"quantization_config": GPTQConfig(**keywords), **_here()}
    if stored is not None:
        if asked is not None:
            raise ValueError(
                f"the checkpoint is quantized already ({method}); quantization=none takes it as it "
                "is, quantization=gptq one of GPTQ"
            )
        return _here()
    if asked is not None and not is_packed_late(plan):
        return {"quantization_config": bitsandbytes_config(plan), **_here()}
    return {}


def bitsandbytes_config(plan: Plan) -> BitsAndBytesConfig:
    """The plan's quantization as transformers takes it."""
    return BitsAndBytesConfig(**plan.lowered["quantization_config"])


def is_packed_late(plan: Plan) -> bool:
    """Is the whole model to be built first, and its linear layers packed then?"""
    chosen = plan.spec.quantization
    return isinstance(chosen, BitsAndBytes) and chosen.when == "after_build"


def pack(plan: Plan, model: Any) -> Any:
    """The model with bitsandbytes' linear layers in the place of its own.

    Weights go through the same code as at load, one after the other, so that both ways give the
    same numbers. The output head and what transformers leaves whole stay as they are. The model
    given is not changed, and is not needed any more.

    Returns:
        A new model, on the device of this process.
    """
    packed = type(model).from_pretrained(
        None,
        config=copy.deepcopy(model.config),
        state_dict=model.state_dict(),
        quantization_config=bitsandbytes_config(plan),
        dtype=model.dtype,
        attn_implementation=plan.lowered["model"]["attn_implementation"],
        **_here(),
    )
    packed.generation_config = model.generation_config
    return packed


def keep_layout(model: torch.nn.Module) -> None:
    """Let 4-bit weights stay as they are packed, also in evaluation on a CPU.

    On CPUs with bfloat16 instructions bitsandbytes packs them anew at the first evaluation, for
    speed; in that form widths must be multiples of the block, and training goes on with it.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def own_device() -> str:
    """The device of this process: quantized weights cannot be moved after loading."""
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "cpu"


def packed_linears(model: torch.nn.Module) -> list[str]:
    """Last parts of the names of GPTQ and AWQ layers, sorted; empty for other models.

    PEFT looks for `torch.nn.Linear` when it is told `all-linear`, which these are not.
    """
    return sorted({name.rpartition(".")[2] for name, _ in _packed(model)})


def packed_parameters(model: torch.nn.Module) -> int:
    """Weights that the buffers of GPTQ and AWQ layers stand for."""
    return sum(int(module.in_features) * int(module.out_features) for _, module in _packed(model))


def _packed(model: torch.nn.Module) -> Iterator[tuple[str, Any]]:
    for name, module in model.named_modules():
        if isinstance(getattr(module, "qweight", None), torch.Tensor):
            yield name, module


def _here() -> dict[str, Any]:
    return {"device_map": {"": own_device()}}
