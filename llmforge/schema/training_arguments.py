"""Every argument of transformers' `TrainingArguments`, and whose it is here.

In: nothing. Out: `ARGUMENTS`, one entry for each: a key of llmforge lowers to it (`Owned`), it is
free for `trainer.extra` (`Open`), or it is `Closed`, with the reason and what does it instead;
`FORMER`, the same for names that older versions and TRL's `SFTConfig` had.

Values are not checked here: types come from the installed class (`compiler/facts/arguments.py`),
refusals from `compiler/rules/arguments.py`. A test walks the installed class and fails for an
argument that this table does not know.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.schema.base import Effect

Words = tuple[tuple[str, Any], ...]
"""Overrides as pairs: `("optimizer.lr", 1e-4)`, `("schedule", "linear")`."""

Say = Callable[[Any], Words]
"""What a value of the argument is in llmforge's words; nothing where it has none."""


@dataclass(frozen=True)
class Owned:
    """A typed key lowers to it."""

    key: str
    """The key, or the section, that decides it."""
    say: Say


@dataclass(frozen=True)
class Open:
    """Free to be set under `trainer.extra`."""

    effect: Effect


@dataclass(frozen=True)
class Closed:
    """Would break what llmforge promises, or nothing would read it."""

    reason: str
    say: Say


def _nothing(_: Any) -> Words:
    return ()


def _same(key: str) -> Say:
    return lambda value: ((key, value),)


def _owned(key: str, say: Say | None = None) -> Owned:
    return Owned(key, say or _same(key))


def _closed(reason: str, say: Say | str | None = None) -> Closed:
    """`say` may be one override, whatever the value is."""
    if isinstance(say, str):
        key, _, text = say.partition("=")
        return Closed(reason, lambda _: ((key, text),))
    return Closed(reason, say or _nothing)


def _chosen(key: str, options: Mapping[Any, Words]) -> Owned:
    """A name of the library is one of our options."""
    return Owned(key, lambda value: options.get(value, ()) if isinstance(value, str) else ())


def _count(value: Any) -> Any:
    """Below 1 the library means a share of the run."""
    if isinstance(value, float) and 0 < value < 1:
        return f"{value * 100:g}%"
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _interval(key: str) -> Owned:
    return Owned(key, lambda value: ((key, _count(value)),))


def _strategy(key: str) -> Owned:
    return _chosen(key, {"no": ((key, None),), "epoch": ((key, "epoch"),)})


def _when(key: str, option: str) -> Say:
    """An option for `true`, nothing to say for `false`."""
    return lambda value: ((key, option),) if value is True else ()


def _optimizer(option: str, **fields: Any) -> Words:
    own = tuple((f"optimizer.{name}", value) for name, value in fields.items())
    return (("optimizer", option), *own)


def _zero(value: Any) -> Words:
    """DeepSpeed by the stage of its JSON."""
    part = value.get("zero_optimization") if isinstance(value, Mapping) else None
    stage = part.get("stage") if isinstance(part, Mapping) else None
    return (("deepspeed", f"stage{stage if stage in (1, 2, 3) else 2}"),)


def _tracker(value: Any) -> Words:
    asked = value if isinstance(value, list) else [value]
    return (("tracking", "mlflow" if "mlflow" in asked else "none"),)


_SCHEDULES: dict[Any, Words] = {
    "linear": (("schedule", "linear"),),
    "cosine": (("schedule", "cosine_to_zero"),),
    "cosine_with_min_lr": (("schedule", "cosine"),),
    "cosine_with_restarts": (("schedule", "cosine_restarts"),),
    "polynomial": (("schedule", "polynomial"),),
    "constant": (("schedule", "fixed"),),
    "constant_with_warmup": (("schedule", "constant"),),
    "inverse_sqrt": (("schedule", "inverse_sqrt"),),
    "warmup_stable_decay": (("schedule", "wsd"),),
}

_OPTIMIZERS: dict[Any, Words] = {
    "adamw_torch": _optimizer("adamw", fused=False),
    "adamw_torch_fused": _optimizer("adamw", fused=True),
    "adamw_bnb_8bit": _optimizer("adamw_8bit", paged=False),
    "adamw_8bit": _optimizer("adamw_8bit", paged=False),
    "paged_adamw_8bit": _optimizer("adamw_8bit"),
    "paged_adamw_32bit": _optimizer("adamw_paged"),
    "paged_adamw": _optimizer("adamw_paged"),
    "lion_32bit": _optimizer("lion"),
    "lion_8bit": _optimizer("lion_8bit"),
    "lion": _optimizer("lion"),
    "paged_lion_32bit": _optimizer("lion", paged=True),
    "paged_lion_8bit": _optimizer("lion_8bit", paged=True),
    "adafactor": _optimizer("adafactor"),
    "sgd": _optimizer("sgd"),
    "schedule_free_adamw": _optimizer("adamw_schedule_free"),
}

_SAMPLING: dict[Any, Words] = {
    "random": (("data.shuffle", True), ("trainer.group_by_length", False)),
    "sequential": (("data.shuffle", False), ("trainer.group_by_length", False)),
    "group_by_length": (("trainer.group_by_length", True),),
}

_PUSH = "the upload is llmforge's own, which never fails the training"
_TRACKED = "runs are recorded by `tracking`, and nothing else switches itself on"
_LOGITS = "logits of an evaluation are never gathered; `metrics` measure them batch by batch"
_SIGNALS = "signals and saves are llmforge's own: sealed, and exact on resume"
_CAST = "it would cast the model itself to 16 bits for good; evaluation computes as training does"
_COLUMNS = "the collator picks its columns by itself"
_SCRIPTS = "nothing reads it but example scripts of transformers"
_CHECKPOINTED = "recomputing is not reentrant: the other kind loses gradients under adapters"
_BATCHES = "how batches come to the processes follows from the plan, whose steps count on it"

ARGUMENTS: Mapping[str, Owned | Open | Closed] = {
    # batch and length
    "per_device_train_batch_size": _owned("trainer.micro_batch"),
    "per_device_eval_batch_size": _owned("evaluation.micro_batch"),
    "gradient_accumulation_steps": _owned("trainer.accumulation"),
    "num_train_epochs": _closed("passes are counted out in steps", _same("trainer.epochs")),
    "max_steps": _owned(
        "trainer.max_steps", lambda value: (("trainer.epochs", None), ("trainer.max_steps", value))
    ),
    "auto_find_batch_size": _closed(
        "the micro batch is solved before the run, by memory", "trainer.micro_batch=auto"
    ),
    "average_tokens_across_devices": _closed(
        "without it the loss would depend on the number of processes"
    ),
    # optimizer and schedule
    "learning_rate": _owned("optimizer.lr"),
    "weight_decay": _owned("optimizer.weight_decay"),
    "adam_beta1": _owned("optimizer.betas", _nothing),
    "adam_beta2": _owned("optimizer.betas", _nothing),
    "adam_epsilon": _owned("optimizer.eps"),
    "max_grad_norm": _owned("optimizer.clip_norm"),
    "optim": _chosen("optimizer", _OPTIMIZERS),
    "optim_args": _closed("every setting of an optimizer has a key in `optimizer`"),
    "optim_target_modules": _closed("GaLore and APOLLO are not among the optimizers"),
    "lr_scheduler_type": _chosen("schedule", _SCHEDULES),
    "lr_scheduler_kwargs": _owned("schedule", _nothing),
    "warmup_steps": _interval("schedule.warmup"),
    # numbers
    "bf16": _owned(
        "precision.compute", lambda on: (("precision", "bfloat16" if on else "float32"),)
    ),
    "fp16": _owned("precision.compute", _when("precision", "float16")),
    "bf16_full_eval": _closed(_CAST),
    "fp16_full_eval": _closed(_CAST),
    "tf32": Open(Effect.NUMERICS),
    "label_smoothing_factor": _owned("trainer.label_smoothing"),
    "neftune_noise_alpha": _owned("trainer.neftune_alpha"),
    "seed": _owned("seed"),
    "data_seed": _owned("seed", _same("seed")),
    "full_determinism": _owned("deterministic"),
    # speed and memory
    "activation_checkpointing": _owned("trainer.gradient_checkpointing"),
    "gradient_checkpointing": _owned("trainer.gradient_checkpointing"),
    "activation_checkpointing_kwargs": _closed(_CHECKPOINTED),
    "gradient_checkpointing_kwargs": _closed(_CHECKPOINTED),
    "torch_compile": _owned("trainer.compile"),
    "torch_compile_backend": _owned(
        "trainer.compile_backend",
        lambda value: (("trainer.compile", True), ("trainer.compile_backend", value)),
    ),
    "torch_compile_mode": _owned(
        "trainer.compile_mode",
        lambda value: (("trainer.compile", True), ("trainer.compile_mode", value)),
    ),
    "use_liger_kernel": _closed(
        "it would put another loss into the model, beside the one of `trainer.loss_kernel`",
        _when("trainer.loss_kernel", "liger"),
    ),
    "liger_kernel_config": _closed("of Liger's kernels the loss is used: `trainer.loss_kernel`"),
    "use_cache": _closed("a cache of keys and values is for generating, and off in training"),
    "torch_empty_cache_steps": Open(Effect.SPEED),
    "use_cpu": _owned("hardware.device", _when("hardware", "cpu")),
    # reading
    "dataloader_num_workers": _owned("trainer.workers"),
    "dataloader_prefetch_factor": _owned("trainer.prefetch"),
    "dataloader_persistent_workers": _owned("trainer.keep_workers"),
    "dataloader_pin_memory": _owned("trainer.pin_memory"),
    "dataloader_multiprocessing_context": Open(Effect.SPEED),
    "dataloader_in_order": _closed("another order of the batches could not be resumed"),
    "dataloader_drop_last": _closed("the plan counts every row, and the last batch is a step too"),
    "train_sampling_strategy": _chosen("trainer.group_by_length", _SAMPLING),
    "length_column_name": _closed(_COLUMNS),
    "remove_unused_columns": _closed(_COLUMNS),
    "label_names": _closed(_COLUMNS),
    "accelerator_config": _closed(_BATCHES),
    "ignore_data_skip": _closed("a resumed run goes on with the rows it has not seen"),
    # recording
    "logging_strategy": _strategy("trainer.log_every"),
    "logging_steps": _interval("trainer.log_every"),
    "logging_first_step": Open(Effect.BOOKKEEPING),
    "logging_nan_inf_filter": _closed("a loss that is not finite stops the run, and is never hid"),
    "log_on_each_node": _closed("rank 0 alone records"),
    "log_level": Open(Effect.BOOKKEEPING),
    "log_level_replica": Open(Effect.BOOKKEEPING),
    "include_num_input_tokens_seen": Open(Effect.BOOKKEEPING),
    "skip_memory_metrics": _closed("each run's peak memory is measured and kept beside it"),
    "disable_tqdm": _closed("the progress bar is llmforge's own"),
    "debug": Open(Effect.BOOKKEEPING),
    "report_to": _closed(_TRACKED, _tracker),
    "run_name": _closed("a run is named by the plan", _same("name")),
    "project": _closed(_TRACKED, _same("tracking.experiment")),
    "trackio_space_id": _closed(_TRACKED),
    "trackio_bucket_id": _closed(_TRACKED),
    "trackio_static_space_id": _closed(_TRACKED),
    # evaluation
    "eval_strategy": _strategy("evaluation.every"),
    "eval_steps": _interval("evaluation.every"),
    "eval_delay": _interval("evaluation.delay"),
    "eval_on_start": _closed("the untrained model is measured apart", _same("evaluation.at_start")),
    "prediction_loss_only": _closed(_LOGITS),
    "eval_accumulation_steps": _closed(_LOGITS),
    "eval_do_concat_batches": _closed(_LOGITS),
    "eval_use_gather_object": _closed(_LOGITS),
    "include_for_metrics": _closed(_LOGITS),
    "batch_eval_metrics": _closed(_LOGITS),
    # saving
    "output_dir": _closed("each run has its own folder under `paths.runs`", _same("paths.runs")),
    "save_strategy": _strategy("checkpoint.every"),
    "save_steps": _interval("checkpoint.every"),
    "save_total_limit": _owned("checkpoint.keep"),
    "save_only_model": _closed("a checkpoint without its state cannot be resumed"),
    "save_on_each_node": _closed("rank 0 alone writes"),
    "enable_jit_checkpoint": _closed(_SIGNALS),
    "resume_from_checkpoint": _closed(
        "the same command goes on from its newest whole checkpoint", "checkpoint.resume=true"
    ),
    "restore_callback_states_from_checkpoint": _closed(_SIGNALS),
    "load_best_model_at_end": _owned("checkpoint.best", _when("checkpoint", "best")),
    "metric_for_best_model": _owned("checkpoint.best"),
    "greater_is_better": _owned(
        "checkpoint.best_direction",
        lambda value: (("checkpoint.best_direction", "maximize" if value else "minimize"),),
    ),
    # the hub
    "push_to_hub": _closed(_PUSH, _when("hub", "push")),
    "hub_model_id": _closed(_PUSH, lambda value: (("hub", "push"), ("hub.repository", value))),
    "hub_token": _closed("a token is named, never given", "hub.token=env:HF_TOKEN"),
    "hub_private_repo": _closed(_PUSH, _same("hub.private")),
    "hub_strategy": _closed(
        _PUSH, lambda value: (("hub.when", "end" if value == "end" else "every_save"),)
    ),
    "hub_always_push": _closed(_PUSH),
    "hub_revision": _closed(_PUSH, _same("hub.revision")),
    # several processes
    "deepspeed": _owned("deepspeed", _zero),
    "fsdp": _owned("fsdp", lambda _: (("fsdp", "full_shard"),)),
    "fsdp_config": _owned("fsdp", _nothing),
    "parallelism_config": _closed("it is an object; `deepspeed` and `fsdp` are the choices"),
    "ddp_find_unused_parameters": Open(Effect.SPEED),
    "ddp_bucket_cap_mb": Open(Effect.SPEED),
    "ddp_broadcast_buffers": Open(Effect.NUMERICS),
    "ddp_static_graph": Open(Effect.SPEED),
    "ddp_backend": Open(Effect.SPEED),
    "ddp_timeout": Open(Effect.BOOKKEEPING),
    "local_rank": _closed("the launcher numbers the processes", "launch=torchrun"),
    # scripts
    "do_train": _closed(_SCRIPTS),
    "do_eval": _closed(_SCRIPTS),
    "do_predict": _closed(_SCRIPTS),
}
"""Argument of the installed versions -> whose it is."""

FORMER: Mapping[str, Owned | Closed] = {
    "evaluation_strategy": _strategy("evaluation.every"),
    "warmup_ratio": Owned("schedule.warmup", lambda value: (("schedule.warmup", _count(value)),)),
    "group_by_length": _owned("trainer.group_by_length"),
    "no_cuda": Owned("hardware.device", _when("hardware", "cpu")),
    "adafactor": Owned("optimizer", _when("optimizer", "adafactor")),
    "torchdynamo": Owned(
        "trainer.compile_backend",
        lambda value: (("trainer.compile", True), ("trainer.compile_backend", value)),
    ),
    "overwrite_output_dir": _closed(
        "a run goes on where it stopped, or starts over", "checkpoint.resume=false"
    ),
    "logging_dir": _closed(_TRACKED),
    "save_safetensors": _closed("weights are safetensors, always"),
    "include_tokens_per_second": _closed("tokens per second are recorded in every run"),
    "split_batches": _closed(_BATCHES),
    "dispatch_batches": _closed(_BATCHES),
    # TRL's SFTConfig, to which superduper hands `training_kwargs`
    "max_length": _owned("collator.max_length"),
    "max_seq_length": _owned("collator.max_length"),
    "packing": Owned("collator", _when("collator", "packed")),
    "dataset_text_field": _owned("data.fields.text"),
    "dataset_num_proc": _closed("rows are read and tokenised once, and kept"),
    "eos_token": _closed("the end token is the tokenizer's"),
}
"""Names that are in no supported version of `TrainingArguments`, but in people's files."""


def effect_of_extra(name: str) -> Effect:
    """What an argument of `trainer.extra` changes; the weights, of one that nobody has classed."""
    entry = ARGUMENTS.get(name)
    return entry.effect if isinstance(entry, Open) else Effect.NUMERICS
