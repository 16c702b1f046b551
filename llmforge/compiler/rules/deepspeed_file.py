"""LF430, LF431: DeepSpeed's own keys beside the plan's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from llmforge.compiler.context import Context
from llmforge.compiler.parse import override
from llmforge.compiler.preset_deepspeed import (
    FIELDS,
    GATHER,
    OFFLOADS,
    OLD_OFFLOADS,
    OWNED,
    SWITCHES,
    ZERO,
)
from llmforge.compiler.rules.base import rule
from llmforge.compiler.rules.dividing import BATCH, batch_override
from llmforge.diagnostics import Diagnostic, near
from llmforge.schema.distributed import HARMLESS, Zero

KNOWN = HARMLESS | {
    *("communication_data_type", "seq_parallel_communication_data_type", "data_types"),
    *("prescale_gradients", "gradient_predivide_factor", "gradient_allreduce_op"),
    *("sparse_gradients", "disable_allgather", "compression_training", "quantize_training"),
    *("data_efficiency", "curriculum_learning", "progressive_layer_drop", "eigenvalue"),
    *("sparse_attention", "autotuning", "hybrid_engine", "compile", "tensor_parallel", "pipeline"),
    *("check_overflow", "managed_gradient_accumulation", "dataloader_drop_last", "log_level"),
    *("fp16", "bf16", "zenflow", "monitor_config"),
}
"""Top-level keys of DeepSpeed 0.19 that the plan does not own."""

_OF_ZERO = frozenset(
    {
        *FIELDS,
        *OFFLOADS,
        *OLD_OFFLOADS,
        *("stage", GATHER, "stage3_gather_fp16_weights_on_model_save", "zenflow", "leaf_module"),
        *("use_multi_rank_bucket_allreduce", "compute_grad_norm", "load_from_fp32_weights"),
        *("elastic_checkpoint", "cpu_offload_param", "cpu_offload_use_pin_memory"),
        *("stage3_model_persistence_threshold", "stage3_module_granularity_threshold"),
        *("stage3_use_all_reduce_for_fetch_params", "stage3_allgather_sequential"),
        *("ignore_unused_parameters", "legacy_stage1", "parameter_alignment"),
        *("zero_hpz_partition_size", "zero_quantized_weights", "zero_quantized_gradients"),
        *("zero_quantized_nontrainable_weights", "memory_efficient_linear"),
        *("pipeline_loading_checkpoint", "override_module_apply", "log_trace_cache_warnings"),
        *("enable_sanity_checks", "save_muon_momentum_buffer_in_memory"),
    }
)
"""Keys of `zero_optimization` in DeepSpeed 0.19, which ends at any other."""

_BATCH = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps")
"""Names in a file of what `BATCH` is in the plan, in its order."""

OPTIMIZERS = {"adam": "adamw", "adamw": "adamw", "lion": "lion", "sgd": "sgd", "muon": "muon"}
"""Name in a file, small -> beginning of the plan's kind."""

SCHEDULES = {"WarmupLR": "constant", "WarmupDecayLR": "linear", "WarmupCosineLR": "cosine"}
"""Name in a file -> the plan's kind."""


@rule("LF430", "DeepSpeed file that contradicts the plan")
def contradicts_the_plan(context: Context) -> Iterator[Diagnostic]:
    """Batch sizes, accumulation, clipping, precision, optimizer and schedule have one source, the
    plan. A DeepSpeed file may say the same, or `auto`, or nothing; other numbers would be ignored
    by one library and taken by another.

    Take the file's value over by the hint, or write `"auto"` into the file.
    """
    zero = context.spec.deepspeed
    if not isinstance(zero, Zero):
        return
    for name, claim in zero.claims.items():
        value, place = claim["value"], claim["place"]
        found = _compared(context, name, value)
        if found is None or _same(value, found[1]):
            continue
        key, now, hint = found
        said = "null" if value is None else str(value).lower() if value is True else value
        yield Diagnostic(
            "LF430",
            f"{place}: `{name}` is {said}, and {key} is {now}",
            key=key,
            hint=hint or f'write "auto" for `{name}` in {place.rpartition(":")[0] or place}',
        )


def _same(claimed: Any, now: Any) -> bool:
    numbers = isinstance(claimed, int | float) and isinstance(now, int | float)
    if numbers and not isinstance(claimed, bool):
        return bool(abs(claimed - now) <= 1e-9 * max(abs(claimed), abs(now)))
    return bool(claimed == now)


def _compared(context: Context, name: str, value: Any) -> tuple[str, Any, str | None] | None:
    """The plan's key, its value and an override that takes the file's over; None for what the plan
    has no word for."""
    spec = context.spec
    plain: Mapping[str, tuple[str, Any]] = {
        "train_batch_size": ("trainer.global_batch", spec.trainer.global_batch),
        "train_micro_batch_size_per_gpu": ("trainer.micro_batch", spec.trainer.micro_batch),
        "gradient_accumulation_steps": ("trainer.accumulation", spec.trainer.accumulation),
        "gradient_clipping": ("optimizer.clip_norm", spec.optimizer.clip_norm or 0.0),
        "optimizer.params.lr": ("optimizer.lr", spec.optimizer.lr),
        "scheduler.params.warmup_max_lr": ("optimizer.lr", spec.optimizer.lr),
        "scheduler.params.warmup_num_steps": (
            "schedule.warmup",
            getattr(spec.schedule, "warmup", None),
        ),
        "scheduler.params.total_num_steps": ("trainer.max_steps", context.facts.steps),
    }
    if name in plain:
        key, now = plain[name]
        return None if now is None else (key, now, _taking_over(context, key, value))
    section, _, rest = name.partition(".params.")
    if section == "optimizer" and rest:
        key, now = f"optimizer.{rest}", getattr(spec.optimizer, rest, None)
        now = list(now) if isinstance(now, tuple) else now
        return None if now is None else (key, now, override(key, value))
    return _named(context, name, value)


def _taking_over(context: Context, key: str, value: Any) -> str | None:
    """An override that the plan comes out under; None where there is none."""
    if key in BATCH:
        claimed = {
            known: context.spec.deepspeed.claims[name]["value"]
            for name, known in zip(_BATCH, BATCH, strict=True)
            if isinstance(context.spec.deepspeed, Zero) and name in context.spec.deepspeed.claims
        }
        if not all(isinstance(number, int) and number > 0 for number in claimed.values()):
            return None
        return batch_override(context, claimed) or batch_override(context, {key: value})
    steps = context.facts.steps
    if key == "schedule.warmup" and isinstance(value, int) and steps is not None:
        return override(key, value) if value < steps else None
    if key == "trainer.max_steps" and context.spec.trainer.epochs is not None:
        return f"{override(key, value)} trainer.epochs=null"
    return override(key, value)


def _named(context: Context, name: str, value: Any) -> tuple[str, Any, str | None] | None:
    """What is a name or a switch, put into the file's words where they are the same."""
    spec = context.spec
    compute = str(spec.precision.compute)
    if name in ("bf16.enabled", "bfloat16.enabled", "fp16.enabled"):
        here = "float16" if name.startswith("fp16") else "bfloat16"
        hint = f"precision={here}" if value else None
        return None if bool(value) == (compute == here) else ("precision.compute", compute, hint)
    if name in ("amp.enabled", "torch_autocast.enabled", "elasticity.enabled"):
        key = "trainer.global_batch" if name.startswith("elastic") else "precision.compute"
        now = spec.trainer.global_batch if name.startswith("elastic") else compute
        return (key, now, None) if value else None
    if name == "optimizer.type":
        kind = OPTIMIZERS.get(str(value).lower())
        fits = kind is not None and spec.optimizer.kind.startswith(kind)
        hint = f"optimizer={kind}" if kind else None
        return None if fits else ("optimizer.kind", spec.optimizer.kind, hint)
    if name == "scheduler.type":
        wanted = SCHEDULES.get(str(value))
        hint = f"schedule={wanted}" if wanted else None
        now = spec.schedule.kind
        return None if wanted == now else ("schedule.kind", now, hint)
    if name == f"{ZERO}.{GATHER}":
        return ("deepspeed.stage", "to be saved with whole weights", None) if not value else None
    return None


@rule("LF431", "unknown or owned key of DeepSpeed")
def odd_key(context: Context) -> Iterator[Diagnostic]:
    """DeepSpeed takes a misspelt key without a word and does not do what it says; of one in
    `zero_optimization` it dies when the model is there. And a key that
    the plan owns (batch sizes, clipping, precision, optimizer, scheduler) has its place there: in
    `deepspeed.more` it would stand against the plan.
    """
    zero = context.spec.deepspeed
    if not isinstance(zero, Zero):
        return
    for name, value in zero.more.items():
        if name in OWNED or (
            name in SWITCHES and isinstance(value, Mapping) and "enabled" in value
        ):
            yield Diagnostic(
                "LF431",
                f"`{name}` belongs to the plan, which makes DeepSpeed's JSON from it",
                key=f"deepspeed.more.{name}",
                hint=f"take `{name}` out of `deepspeed.more`",
            )
        elif name not in KNOWN:
            yield _unknown(name, name, sorted(KNOWN | OWNED | {ZERO}))
        elif name == ZERO and isinstance(value, Mapping):
            for part in [part for part in value if part not in _OF_ZERO]:
                yield _unknown(part, f"{ZERO}.{part}", sorted(_OF_ZERO))


def _unknown(name: str, place: str, known: list[str]) -> Diagnostic:
    guess = near(name, known, 1)
    return Diagnostic(
        "LF431",
        f"DeepSpeed has no key `{place}`",
        key=f"deepspeed.more.{place}",
        hint=f"write `{guess[0]}` for `{name}`" if guess else f"take `{name}` out",
    )
