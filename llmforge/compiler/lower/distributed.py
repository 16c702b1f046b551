"""Keywords of DeepSpeed and FSDP2.

In: a solved context. Out: keyword -> value and its source.
"""

from __future__ import annotations

from typing import Any

from llmforge.compiler.context import Context
from llmforge.compiler.lower.base import Lowered
from llmforge.schema.run import Fsdp2, Zero


def distributed(context: Context) -> Lowered:
    """DeepSpeed's JSON, or FSDP2's settings, under `TrainingArguments`."""
    spec = context.spec
    lowered: Lowered = {}
    if isinstance(spec.deepspeed, Zero):
        lowered["deepspeed"] = (_deepspeed(context, spec.deepspeed), "deepspeed")
    if isinstance(spec.fsdp, Fsdp2):
        lowered["fsdp"] = (True, "fsdp.kind")
        lowered["fsdp_config"] = (
            {
                "version": 2,
                "reshard_after_forward": spec.fsdp.reshard_after_forward,
                "cpu_offload": spec.fsdp.offload,
                "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
            },
            "fsdp",
        )
    return lowered


def _deepspeed(context: Context, zero: Zero) -> dict[str, Any]:
    """The DeepSpeed JSON: every value from the plan, none written twice."""
    spec = context.spec
    optimization: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": zero.overlap_communication,
        "contiguous_gradients": zero.contiguous_gradients,
        "reduce_bucket_size": zero.bucket_size,
        "allgather_bucket_size": zero.bucket_size,
    }
    if zero.offload_optimizer:
        optimization["offload_optimizer"] = {"device": "cpu", "pin_memory": False}
    if zero.stage == 3:
        optimization["stage3_gather_16bit_weights_on_model_save"] = True
        if zero.offload_parameters:
            optimization["offload_param"] = {"device": "cpu", "pin_memory": False}
    return {
        "train_batch_size": spec.trainer.global_batch,
        "train_micro_batch_size_per_gpu": spec.trainer.micro_batch,
        "gradient_accumulation_steps": spec.trainer.accumulation,
        "gradient_clipping": spec.optimizer.clip_norm or 0.0,
        "bf16": {"enabled": spec.precision.compute == "bfloat16"},
        "fp16": {"enabled": spec.precision.compute == "float16"},
        "zero_optimization": optimization,
        # the optimizer is the plan's, also where DeepSpeed has not tested it with ZeRO
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
