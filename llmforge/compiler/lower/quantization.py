"""Keywords of a quantized base in transformers: `BitsAndBytesConfig`, or `GPTQConfig`.

In: a solved context. Out: keyword -> value and its source. Which of the two classes takes them, and
whether they are used at load or afterwards, `build/quantized.py` reads from the settings.
"""

from __future__ import annotations

from llmforge.compiler.context import Context
from llmforge.compiler.facts.quantized import quantized_base
from llmforge.compiler.lower.base import Lowered
from llmforge.schema.precision import BitsAndBytes, Gptq


def quantization(context: Context) -> Lowered | None:
    """Keywords of the base's quantization; None without one."""
    found = context.spec.quantization
    if isinstance(found, Gptq):
        return _gptq(context, found)
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


def _gptq(context: Context, found: Gptq) -> Lowered:
    """The library asks for bits, and then reads them from the checkpoint; null: not known yet."""
    base = quantized_base(context.facts.model_config)
    return {
        "bits": (base.bits if base else None, "model"),
        "backend": (found.backend, "quantization.backend"),
    }
