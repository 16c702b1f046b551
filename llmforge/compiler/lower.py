"""Specs to the keywords of the libraries that do the work; the only place that knows them.

In: a solved context. Out: entries `(key, value, reason, reads)` under `training_arguments`,
`optimizer`, `model`, `lora_config` and `quantization_config`. A test binds every keyword to the
installed signature, so a renamed argument is found before a user finds it.
"""

from __future__ import annotations

from typing import Any

from llmforge.compiler.context import Context, Derived
from llmforge.schema.model import BitsAndBytes, FolderModel, HubModel, Lora, ScratchModel
from llmforge.schema.optim import Adafactor, AdamW, AdamW8bit, Cosine, Sgd
from llmforge.schema.run import Device, Fsdp2, Zero


def lower(context: Context) -> list[Derived]:
    """All lowered keywords, keys relative to the plan's `lowered` part."""
    return [
        *_under("training_arguments", _training_arguments(context)),
        *_under("optimizer", _optimizer_kwargs(context)),
        *_under("model", _model(context)),
        *_under("lora_config", _lora(context)),
        *_under("quantization_config", _quantization(context)),
    ]


Lowered = dict[str, tuple[Any, str]]
"""keyword -> (value, the key it came from)."""


def _under(part: str, lowered: Lowered | None) -> list[Derived]:
    if lowered is None:
        section = part.removesuffix("_config")
        return [Derived(part, None, f"`{section}` needs none", (f"{section}.kind",))]
    return [
        Derived(f"{part}.{name}", value, f"keyword `{name}`", (source,))
        for name, (value, source) in lowered.items()
    ]


def _training_arguments(context: Context) -> Lowered:
    spec = context.spec
    trainer = spec.trainer
    return {
        "per_device_train_batch_size": (trainer.micro_batch, "trainer.micro_batch"),
        "per_device_eval_batch_size": (spec.evaluation.micro_batch, "evaluation.micro_batch"),
        "gradient_accumulation_steps": (trainer.accumulation, "trainer.accumulation"),
        "max_steps": (context.facts.steps, "estimate.steps"),
        "gradient_checkpointing": (
            trainer.gradient_checkpointing,
            "trainer.gradient_checkpointing",
        ),
        # the reentrant kind loses gradients under adapters and warns in every current torch
        "gradient_checkpointing_kwargs": (
            {"use_reentrant": False} if trainer.gradient_checkpointing else None,
            "trainer.gradient_checkpointing",
        ),
        "label_smoothing_factor": (trainer.label_smoothing, "trainer.label_smoothing"),
        "neftune_noise_alpha": (trainer.neftune_alpha, "trainer.neftune_alpha"),
        "dataloader_num_workers": (trainer.workers, "trainer.workers"),
        "train_sampling_strategy": (_sampling(context), "trainer.group_by_length"),
        "seed": (spec.seed, "seed"),
        "data_seed": (spec.seed, "seed"),
        "full_determinism": (spec.deterministic, "deterministic"),
        **_optimizer(context),
        **_schedule(context),
        **_precision(context),
        **_intervals(context),
        **_distributed(context),
        # fixed, with the reason beside each
        "ddp_find_unused_parameters": (False, "launch.processes"),  # every weight gets a gradient
        "report_to": ("none", "tracking.kind"),  # the tracker is ours; nothing switches itself on
        "disable_tqdm": (True, "trainer.log_every"),  # the progress bar is ours
        "remove_unused_columns": (False, "collator.kind"),  # the collator picks its columns
        "logging_nan_inf_filter": (False, "trainer.kind"),  # a NaN must be seen, not smoothed
        "logging_first_step": (True, "trainer.log_every"),
        "prediction_loss_only": (True, "evaluation.every"),  # logits are never gathered
    }


def _sampling(context: Context) -> str:
    if context.spec.trainer.group_by_length:
        return "group_by_length"
    return "random" if context.spec.data.shuffle else "sequential"


def _optimizer(context: Context) -> Lowered:
    optimizer = context.spec.optimizer
    clip = optimizer.clip_norm if optimizer.clip_norm is not None else 0.0
    lowered: Lowered = {
        "weight_decay": (optimizer.weight_decay, "optimizer.weight_decay"),
        "max_grad_norm": (clip, "optimizer.clip_norm"),
    }
    if optimizer.lr is not None:
        lowered["learning_rate"] = (optimizer.lr, "optimizer.lr")
    if isinstance(optimizer, AdamW | AdamW8bit):
        lowered |= {
            "adam_beta1": (optimizer.betas[0], "optimizer.betas"),
            "adam_beta2": (optimizer.betas[1], "optimizer.betas"),
            "adam_epsilon": (optimizer.eps, "optimizer.eps"),
        }
    if isinstance(optimizer, AdamW):
        name = "adamw_torch_fused" if optimizer.fused else "adamw_torch"
        lowered["optim"] = (name, "optimizer.fused")
    elif isinstance(optimizer, AdamW8bit):
        name = "paged_adamw_8bit" if optimizer.paged else "adamw_bnb_8bit"
        lowered["optim"] = (name, "optimizer.paged")
    return lowered


def _optimizer_kwargs(context: Context) -> Lowered | None:
    """Keywords of optimizers that llmforge builds itself: TrainingArguments drops their fields."""
    optimizer = context.spec.optimizer
    lowered: Lowered = {"lr": (optimizer.lr, "optimizer.lr")}
    if isinstance(optimizer, Sgd):
        return {**lowered, "momentum": (optimizer.momentum, "optimizer.momentum")}
    if isinstance(optimizer, Adafactor):
        return {
            **lowered,
            "clip_threshold": (optimizer.clip_threshold, "optimizer.clip_threshold"),
            "decay_rate": (optimizer.decay_rate, "optimizer.decay_rate"),
            "scale_parameter": (optimizer.scale_parameter, "optimizer.scale_parameter"),
            "relative_step": (optimizer.relative_step, "optimizer.relative_step"),
            "warmup_init": (optimizer.warmup_init, "optimizer.warmup_init"),
        }
    return None


def _schedule(context: Context) -> Lowered:
    schedule = context.spec.schedule
    names = {"constant": "constant_with_warmup", "linear": "linear", "cosine": "cosine_with_min_lr"}
    lowered: Lowered = {
        "lr_scheduler_type": (names[schedule.kind], "schedule.kind"),
        "warmup_steps": (schedule.warmup, "schedule.warmup"),
    }
    if isinstance(schedule, Cosine):
        lowered["lr_scheduler_kwargs"] = ({"min_lr_rate": schedule.floor}, "schedule.floor")
    return lowered


def _precision(context: Context) -> Lowered:
    compute = context.spec.precision.compute
    machine = context.spec.hardware
    assert isinstance(machine, Device)  # noqa: S101 - guaranteed by the pass order
    return {
        "bf16": (compute == "bfloat16", "precision.compute"),
        "fp16": (compute == "float16", "precision.compute"),
        "use_cpu": (machine.device == "cpu", "hardware.device"),
    }


def _intervals(context: Context) -> Lowered:
    spec, data = context.spec, context.facts.data
    evaluates = spec.evaluation.every is not None and bool(data and data.evaluation_rows)
    lowered: Lowered = {
        "logging_strategy": (_strategy(spec.trainer.log_every), "trainer.log_every"),
        "eval_strategy": ("steps" if evaluates else "no", "evaluation.every"),
        "save_strategy": (_strategy(spec.checkpoint.every), "checkpoint.every"),
        "save_total_limit": (spec.checkpoint.keep, "checkpoint.keep"),
    }
    if spec.trainer.log_every is not None:
        lowered["logging_steps"] = (spec.trainer.log_every, "trainer.log_every")
    if evaluates:
        lowered["eval_steps"] = (spec.evaluation.every, "evaluation.every")
    if spec.checkpoint.every is not None:
        lowered["save_steps"] = (spec.checkpoint.every, "checkpoint.every")
    if spec.checkpoint.best is not None:
        lowered |= {
            "load_best_model_at_end": (True, "checkpoint.best"),
            "metric_for_best_model": (spec.checkpoint.best, "checkpoint.best"),
            "greater_is_better": (
                spec.checkpoint.best_direction == "maximize",
                "checkpoint.best_direction",
            ),
        }
    return lowered


def _strategy(interval: int | str | None) -> str:
    return "no" if interval is None else "steps"


def _distributed(context: Context) -> Lowered:
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


def _model(context: Context) -> Lowered:
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


def _lora(context: Context) -> Lowered | None:
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


def _quantization(context: Context) -> Lowered | None:
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
