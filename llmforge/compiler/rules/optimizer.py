"""LF31: optimizers, parameter groups, clipping and schedules that do not go together.

In: a solved context. Out: findings. Rates that nobody or two set, and warm-up against the length
of the run, are batch arithmetic (`batch.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.lower.schedule import decay_steps, milestone_steps
from llmforge.compiler.parse import override
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.schema.adapter import AdaLora, LowRank, NoAdapter
from llmforge.schema.distributed import Fsdp2, Zero
from llmforge.schema.optim import (
    Adafactor,
    AdamW8bit,
    AdamWPaged,
    BitsAndBytesOptimizer,
    Lion,
    Muon,
    OptimizerSpec,
    ScheduleFree,
)
from llmforge.schema.schedule import Constant, MultiStep, WarmupStableDecay

_EMBEDDING = re.compile(r"embed|wte|wpe|shared", re.IGNORECASE)
"""Names of embeddings in every family of transformers."""

_MUON_SINCE = (2, 9)
"""The version of torch that brought `torch.optim.Muon`."""


@rule("LF310", "paged optimizer without CUDA")
def paged_without_cuda(context: Context) -> Iterator[Diagnostic]:
    """Pages move optimizer state between GPU and CPU memory; without CUDA there is nothing to move.

    bitsandbytes then holds the state as usual, so the run is the same. A warning.
    """
    optimizer = context.spec.optimizer
    if hardware(context).device == "cuda":
        return
    if isinstance(optimizer, AdamWPaged):
        key, hint = "optimizer.kind", "optimizer=adamw"
    elif isinstance(optimizer, AdamW8bit | Lion) and optimizer.paged:
        key, hint = "optimizer.paged", "optimizer.paged=false"
    else:
        return
    yield Diagnostic(
        "LF310", "a paged optimizer without CUDA pages nothing", Severity.WARNING, key, hint=hint
    )


@rule("LF311", "clipping that cannot be done")
def clipping_impossible(context: Context) -> Iterator[Diagnostic]:
    """Gradients are clipped by norm or by value: of both, the second would act on what the first
    left, and neither number would say what happens.

    Under DeepSpeed and FSDP gradients lie in shards of the library's own, which clips them by norm
    alone.
    """
    spec = context.spec
    optimizer = spec.optimizer
    if optimizer.clip_value is None:
        return
    if isinstance(spec.deepspeed, Zero) or isinstance(spec.fsdp, Fsdp2):
        name = "DeepSpeed" if isinstance(spec.deepspeed, Zero) else "FSDP"
        yield Diagnostic(
            "LF311",
            f"clipping by value under {name}",
            key="optimizer.clip_value",
            hint="optimizer.clip_value=null optimizer.clip_norm=1.0",
        )
    elif optimizer.clip_norm is not None:
        yield Diagnostic(
            "LF311",
            f"gradients clipped by norm ({optimizer.clip_norm:g}) and by value "
            f"({optimizer.clip_value:g})",
            key="optimizer.clip_value",
            hint="optimizer.clip_norm=null",
        )


@rule("LF312", "separate rate that cannot be")
def group_impossible(context: Context) -> Iterator[Diagnostic]:
    """A rate of its own for some weights needs such weights, and an optimizer whose rate is given.

    LoRA+ needs an adapter with B matrices; an embedding's rate needs embeddings that are trained
    (`lora.modules_to_save` names them under an adapter); decay by layer does not fit Muon, whose
    steps are as long in every layer by design; Adafactor's `relative_step` knows no rate at all.
    """
    spec, optimizer = context.spec, context.spec.optimizer
    given = {
        name: getattr(optimizer, name)
        for name in ("lora_plus_ratio", "embedding_lr", "layer_decay")
        if getattr(optimizer, name) is not None
    }
    whole = isinstance(spec.lora, NoAdapter)
    saved = getattr(spec.lora, "modules_to_save", [])
    for name in given:
        why = None
        if isinstance(optimizer, Adafactor) and optimizer.relative_step:
            why = "with Adafactor's `relative_step`, which knows no rate"
        elif name == "lora_plus_ratio" and not isinstance(spec.lora, LowRank | AdaLora):
            why = "without an adapter" if whole else f"with {spec.lora.kind}, which has no B matrix"
        elif name == "embedding_lr" and not whole and not any(map(_EMBEDDING.search, saved)):
            why = "while the adapter freezes the embeddings"
        elif name == "layer_decay" and isinstance(optimizer, Muon):
            why = "with Muon, whose steps are as long in every layer"
        if why:
            yield Diagnostic(
                "LF312", f"{name} {why}", key=f"optimizer.{name}", hint=f"optimizer.{name}=null"
            )


@rule("LF313", "schedule that the optimizer does not follow")
def schedule_not_followed(context: Context) -> Iterator[Diagnostic]:
    """Some optimizers bring their own course of the rate: Adafactor's `relative_step` reads no
    schedule at all, and schedule-free AdamW averages instead of slowing down, so that a falling
    rate slows it twice.

    A warning; `schedule=constant` says what happens.
    """
    optimizer, schedule = context.spec.optimizer, context.spec.schedule
    own = isinstance(optimizer, Adafactor) and optimizer.relative_step
    if isinstance(schedule, Constant) or not (own or isinstance(optimizer, ScheduleFree)):
        return
    what = "reads no schedule" if own else "is meant to go without one"
    yield Diagnostic(
        "LF313",
        f"schedule `{schedule.kind}` with {_name(optimizer)}, which {what}",
        Severity.WARNING,
        key="schedule.kind",
        hint="schedule=constant",
    )


def _name(optimizer: OptimizerSpec) -> str:
    return "schedule-free AdamW" if isinstance(optimizer, ScheduleFree) else "`relative_step`"


@rule("LF314", "schedule that does not fit the run")
def schedule_does_not_fit(context: Context) -> Iterator[Diagnostic]:
    """Milestones rise, and lie within the run; warm-up and the final fall together are no longer
    than the run.

    A milestone beyond the end is a warning: the same settings may be meant for longer runs too.
    """
    schedule, steps = context.spec.schedule, context.facts.steps
    if isinstance(schedule, MultiStep):
        yield from _milestones(context, schedule)
    elif isinstance(schedule, WarmupStableDecay) and steps is not None:
        warmup, fall = schedule.warmup, decay_steps(context, schedule)
        if isinstance(warmup, int) and fall is not None and warmup + fall > steps:
            yield Diagnostic(
                "LF314",
                f"{warmup} steps of warm-up and {fall} of decay in a run of {steps}",
                key="schedule.decay",
                hint="schedule.warmup=3% schedule.decay=10%",
            )


def _milestones(context: Context, schedule: MultiStep) -> Iterator[Diagnostic]:
    rising = sorted(set(schedule.milestones))
    if schedule.milestones != rising:
        yield Diagnostic(
            "LF314",
            "milestones that do not rise",
            key="schedule.milestones",
            hint=override("schedule.milestones", rising),
        )
        return
    steps, marks = context.facts.steps, milestone_steps(context, schedule)
    if steps is None or marks is None:
        return
    beyond = [
        f"{mark:,}" for mark, step in zip(schedule.milestones, marks, strict=True) if step >= steps
    ]
    if beyond:
        yield Diagnostic(
            "LF314",
            f"{schedule.unit} {', '.join(beyond)} lie beyond the run's {steps:,} steps",
            Severity.WARNING,
            key="schedule.milestones",
            notes=(f"in steps: {', '.join(f'{mark:,}' for mark in marks)}",),
            hint="schedule=constant" if len(beyond) == len(marks) else override(
                "schedule.milestones", schedule.milestones[: -len(beyond)]
            ),
        )  # fmt: skip


@rule("LF315", "optimizer that is not installed")
def optimizer_missing(context: Context) -> Iterator[Diagnostic]:
    """The optimizer is another library's, or of a newer torch than the one that is installed."""
    optimizer, facts = context.spec.optimizer, context.facts
    torch = tuple(int(part) for part in re.findall(r"\d+", facts.versions.get("torch", ""))[:2])
    if isinstance(optimizer, ScheduleFree) and not facts.has("schedulefree"):
        needed, hint = "schedulefree", "pip install 'llmforge[schedule-free]'"
    elif (
        isinstance(optimizer, BitsAndBytesOptimizer)
        and not isinstance(optimizer, AdamW8bit)  # LF307 says so of it
        and not facts.has("bitsandbytes")
    ):
        needed, hint = "bitsandbytes", "pip install 'llmforge[quantize]'"
    elif isinstance(optimizer, Muon) and torch and torch < _MUON_SINCE:
        needed, hint = "torch 2.9 or later", "pip install -U torch"
    else:
        return
    yield Diagnostic(
        "LF315", f"{needed} is needed but not installed", key="optimizer.kind", hint=hint
    )


@rule("LF317", "Muon over sharded weights")
def muon_over_shards(context: Context) -> Iterator[Diagnostic]:
    """Muon makes the step of a whole matrix orthogonal; DeepSpeed and FSDP give it pieces.

    Under plain data parallelism (`deepspeed=none fsdp=none`) each process has whole matrices.
    """
    spec = context.spec
    if not isinstance(spec.optimizer, Muon):
        return
    for section, sharded in (
        ("deepspeed", isinstance(spec.deepspeed, Zero)),
        ("fsdp", isinstance(spec.fsdp, Fsdp2)),
    ):
        if sharded:
            yield Diagnostic(
                "LF317",
                "Muon over sharded weights",
                key=f"{section}.kind",
                hint=f"{section}=none",
            )
