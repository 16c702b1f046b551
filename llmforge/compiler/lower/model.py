"""Keywords of the model: `from_config` or `from_pretrained`, quantization, adapter.

In: a solved context. Out: keyword -> value and its source.
"""

from __future__ import annotations

from llmforge.compiler.context import Context
from llmforge.compiler.lower.base import Lowered
from llmforge.schema.adapter import Lora
from llmforge.schema.model import FolderModel, HubModel, ScratchModel
from llmforge.schema.precision import BitsAndBytes


def model(context: Context) -> Lowered:
    """Keywords of `from_config` or `from_pretrained`."""
    spec = context.spec
    lowered: Lowered = {
        "dtype": (spec.precision.weights, "precision.weights"),
        "attn_implementation": (spec.model.attention, "model.attention"),
    }
    if isinstance(spec.model, ScratchModel):
        return {"config": (dict(context.facts.model_config), "model"), **lowered}
    if isinstance(spec.model, FolderModel):
        name, revision, source = spec.model.path, None, "model.path"
    elif isinstance(spec.model, HubModel):
        name, revision, source = spec.model.id, spec.model.revision, "model.id"
    else:
        return lowered
    return {
        "pretrained_model_name_or_path": (name, source),
        "revision": (revision, "model.revision" if revision else source),
        "trust_remote_code": (spec.model.trust_remote_code, "model.trust_remote_code"),
        "use_safetensors": (True, source),
        **lowered,
    }


def adapter(context: Context) -> Lowered | None:
    """Keywords of PEFT's configuration; None without an adapter."""
    lora = context.spec.lora
    if not isinstance(lora, Lora):
        return None
    return {
        "r": (lora.r, "lora.r"),
        "lora_alpha": (lora.alpha, "lora.alpha"),
        "lora_dropout": (lora.dropout, "lora.dropout"),
        "target_modules": (lora.targets, "lora.targets"),
        "bias": (lora.bias, "lora.bias"),
        "use_rslora": (lora.rslora, "lora.rslora"),
        "use_dora": (lora.dora, "lora.dora"),
        "modules_to_save": (lora.modules_to_save or None, "lora.modules_to_save"),
        "task_type": ("CAUSAL_LM", "trainer.kind"),
    }


def quantization(context: Context) -> Lowered | None:
    """Keywords of `BitsAndBytesConfig`; None without one."""
    found = context.spec.quantization
    if not isinstance(found, BitsAndBytes):
        return None
    if found.bits == 4:
        return {
            "load_in_4bit": (True, "quantization.bits"),
            "bnb_4bit_quant_type": (found.quant_type, "quantization.quant_type"),
            "bnb_4bit_use_double_quant": (found.double_quant, "quantization.double_quant"),
            "bnb_4bit_compute_dtype": (context.spec.precision.compute, "precision.compute"),
        }
    return {
        "load_in_8bit": (True, "quantization.bits"),
        "llm_int8_threshold": (found.int8_threshold, "quantization.int8_threshold"),
        "llm_int8_has_fp16_weight": (found.int8_fp16_weight, "quantization.int8_fp16_weight"),
    }
