"""Keywords of `TrainingArguments`, without those of optimizer and distribution.

In: a solved context. Out: keyword -> value and its source.
"""

from __future__ import annotations

from llmforge.compiler.context import Context
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.lower.base import Lowered
from llmforge.compiler.lower.distributed import distributed
from llmforge.compiler.lower.optimizer import optimizer
from llmforge.compiler.lower.schedule import schedule
from llmforge.schema.base import seconds_of
from llmforge.schema.preference import DpoSpec
from llmforge.schema.run import Device
from llmforge.schema.train import TrainerSpec


def training_arguments(context: Context) -> Lowered:
    """Every keyword of `TrainingArguments` that the plan sets."""
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
        **_compiling(trainer),
        # of pairs it is another thing, and TRL's affair
        "label_smoothing_factor": (
            0.0 if isinstance(trainer, DpoSpec) else trainer.label_smoothing,
            "trainer.label_smoothing",
        ),
        "neftune_noise_alpha": (trainer.neftune_alpha, "trainer.neftune_alpha"),
        "dataloader_num_workers": (trainer.workers, "trainer.workers"),
        "dataloader_prefetch_factor": (trainer.prefetch, "trainer.prefetch"),
        "dataloader_persistent_workers": (trainer.keep_workers, "trainer.keep_workers"),
        "dataloader_pin_memory": (
            trainer.pin_memory and hardware(context).device == "cuda",
            "trainer.pin_memory",
        ),
        "train_sampling_strategy": (_sampling(context), "trainer.group_by_length"),
        **_reading(context),
        "seed": (spec.seed, "seed"),
        "data_seed": (spec.seed, "seed"),
        "full_determinism": (spec.deterministic, "deterministic"),
        **optimizer(context),
        **schedule(context),
        **_precision(context),
        **_intervals(context),
        **distributed(context),
        # fixed, with the reason beside each
        "ddp_find_unused_parameters": (False, "launch.processes"),  # every weight gets a gradient
        "report_to": ("none", "tracking.kind"),  # the tracker is ours; nothing switches itself on
        "disable_tqdm": (True, "trainer.log_every"),  # the progress bar is ours
        "remove_unused_columns": (False, "collator.kind"),  # the collator picks its columns
        "logging_nan_inf_filter": (False, "trainer.kind"),  # a NaN must be seen, not smoothed
        "logging_first_step": (True, "trainer.log_every"),
        "prediction_loss_only": (True, "evaluation.every"),  # logits are never gathered
        # what nobody above owns; `rules/arguments.py` sees to that
        **{name: (value, f"trainer.extra.{name}") for name, value in trainer.extra.items()},
    }


def _compiling(trainer: TrainerSpec) -> Lowered:
    """The library takes a backend or a mode as the wish to compile, and compiling as the wish for
    TF32, which is another precision and not only another speed."""
    lowered: Lowered = {"torch_compile": (trainer.compile, "trainer.compile")}
    if trainer.compile:
        lowered |= {
            "torch_compile_backend": (trainer.compile_backend, "trainer.compile_backend"),
            "torch_compile_mode": (trainer.compile_mode, "trainer.compile_mode"),
            "tf32": (False, "trainer.compile"),
        }
    return lowered


def _sampling(context: Context) -> str:
    if context.spec.trainer.group_by_length:
        return "group_by_length"
    return "random" if context.spec.data.shuffle else "sequential"


def _reading(context: Context) -> Lowered:
    """By default rank 0 reads a stream for all and cuts its batches up, which must then be of one
    length; this way every rank reads it and takes its own samples of each batch."""
    if not context.spec.data.streaming:
        return {}
    return {"accelerator_config": ({"dispatch_batches": False}, "data.streaming")}


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
    every, by_clock = spec.checkpoint.every, seconds_of(spec.checkpoint.every) is not None
    evaluates = spec.evaluation.every is not None and bool(data and data.evaluation_rows)
    lowered: Lowered = {
        "logging_strategy": (_strategy(spec.trainer.log_every), "trainer.log_every"),
        "eval_strategy": ("steps" if evaluates else "no", "evaluation.every"),
        # by the clock it is not the library that knows when
        "save_strategy": (_strategy(None if by_clock else every), "checkpoint.every"),
        "save_total_limit": (spec.checkpoint.keep, "checkpoint.keep"),
    }
    if spec.trainer.log_every is not None:
        lowered["logging_steps"] = (spec.trainer.log_every, "trainer.log_every")
    if evaluates:
        lowered["eval_steps"] = (spec.evaluation.every, "evaluation.every")
        lowered["eval_delay"] = (spec.evaluation.delay, "evaluation.delay")
    if every is not None and not by_clock:
        lowered["save_steps"] = (every, "checkpoint.every")
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
