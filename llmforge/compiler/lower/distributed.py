"""Keywords of DeepSpeed and FSDP2.

In: a solved context. Out: keyword -> value and its source. DeepSpeed's JSON is made here as a
whole, each number once, from where the plan has it; `deepspeed.more` is laid over it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmforge.compiler.context import Context
from llmforge.compiler.lower.base import Lowered
from llmforge.schema.distributed import Fsdp2, Zero


def distributed(context: Context) -> Lowered:
    """DeepSpeed's JSON, or FSDP2's settings, under `TrainingArguments`."""
    spec = context.spec
    lowered: Lowered = {}
    if isinstance(spec.deepspeed, Zero):
        lowered["deepspeed"] = (_deepspeed(context, spec.deepspeed), "deepspeed")
    if isinstance(spec.fsdp, Fsdp2):
        lowered["fsdp"] = (True, "fsdp.kind")
        lowered["fsdp_config"] = (_fsdp(context, spec.fsdp), "fsdp")
        # its own checkpointing wraps the layers that it gathers; the model's would gather a layer's
        # weights once more in the middle of the backward pass
        lowered["gradient_checkpointing"] = (False, "fsdp.kind")
        lowered["gradient_checkpointing_kwargs"] = (None, "fsdp.kind")
    return lowered


def sharding(context: Context) -> Lowered | None:
    """What of FSDP2 the Trainer's arguments cannot say."""
    fsdp = context.spec.fsdp
    if not isinstance(fsdp, Fsdp2):
        return None
    compute = str(context.spec.precision.compute)
    summed = compute if fsdp.reduce_dtype == "compute" else "float32"
    return {
        "param_dtype": (compute, "precision.compute"),
        "reduce_dtype": (summed, "fsdp.reduce_dtype"),
    }


def _fsdp(context: Context, fsdp: Fsdp2) -> dict[str, Any]:
    found: dict[str, Any] = {
        "version": 2,
        "reshard_after_forward": fsdp.reshard_after_forward,
        "cpu_offload": fsdp.offload,
        "auto_wrap_policy": "TRANSFORMER_BASED_WRAP",
        "activation_checkpointing": bool(context.spec.trainer.gradient_checkpointing),
        # whole weights beside the sharded optimizer state: a checkpoint that any engine reads
        "state_dict_type": "FULL_STATE_DICT",
    }
    if fsdp.wrap != "auto":
        found["transformer_layer_cls_to_wrap"] = list(fsdp.wrap)
    return found


def _deepspeed(context: Context, zero: Zero) -> dict[str, Any]:
    """The DeepSpeed JSON: every value from the plan, none written twice."""
    spec = context.spec
    made: dict[str, Any] = {
        "train_batch_size": spec.trainer.global_batch,
        "train_micro_batch_size_per_gpu": spec.trainer.micro_batch,
        "gradient_accumulation_steps": spec.trainer.accumulation,
        "gradient_clipping": spec.optimizer.clip_norm or 0.0,
        "bf16": {"enabled": spec.precision.compute == "bfloat16"},
        "fp16": {"enabled": spec.precision.compute == "float16"},
        "zero_optimization": _stage(zero),
        # the optimizer is the plan's, also where DeepSpeed has not tested it with ZeRO
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
    }
    return _over(made, zero.more)


def _stage(zero: Zero) -> dict[str, Any]:
    found: dict[str, Any] = {
        "stage": zero.stage,
        "overlap_comm": zero.overlap_communication,
        "contiguous_gradients": zero.contiguous_gradients,
        "reduce_scatter": zero.reduce_scatter,
        "reduce_bucket_size": zero.bucket_size,
    }
    offloaded = {"device": "cpu", "pin_memory": zero.pin_memory}
    if zero.offload_optimizer:
        found["offload_optimizer"] = dict(offloaded)
    if zero.stage != 3:
        return found | {
            "allgather_partitions": zero.gather_partitions,
            "allgather_bucket_size": zero.gather_bucket_size,
            "round_robin_gradients": zero.round_robin_gradients,
        }
    if zero.offload_parameters:
        found["offload_param"] = dict(offloaded)
    return found | {
        "sub_group_size": zero.sub_group_size,
        "stage3_prefetch_bucket_size": zero.prefetch_bucket_size,
        "stage3_param_persistence_threshold": zero.persistence_threshold,
        "stage3_max_live_parameters": zero.max_live_parameters,
        "stage3_max_reuse_distance": zero.max_reuse_distance,
        # checkpoints and the final model hold whole weights
        "stage3_gather_16bit_weights_on_model_save": True,
    }


def _over(made: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """`more` laid over what was made, mapping by mapping."""
    found = dict(made)
    for key, value in more.items():
        inner = found.get(key)
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            found[key] = _over(inner, value)
        else:
            found[key] = value
    return found
