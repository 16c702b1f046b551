"""LF2: batch arithmetic, schedules, intervals."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.rules.base import rule
from llmforge.compiler.rules.dividing import fitting_batch
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.schema.optim import Adafactor


def _steps(context: Context) -> int | None:
    """Steps that are certain. A guess refuses nothing: once the data are prepared, the plan is
    made again and checked again."""
    samples = context.facts.samples
    if context.spec.trainer.max_steps is None and samples is not None and not samples.exact:
        return None
    return context.facts.steps


@rule("LF201", "warm-up longer than training")
def warmup_longer_than_training(context: Context) -> Iterator[Diagnostic]:
    """The learning rate never reaches its peak: warm-up takes as many steps as the run, or more.

    A run of 30 steps with 1,000 warm-up steps trains at 3 % of the rate you asked for, and its
    loss curve looks like a model that cannot learn. Give warm-up as a share (`3%`), which follows
    the run's length.
    """
    warmup, steps = context.spec.schedule.warmup, _steps(context)
    if isinstance(warmup, int) and steps is not None and 0 < steps <= warmup:
        peak = steps / warmup
        yield Diagnostic(
            "LF201",
            f"warm-up takes {warmup} steps, the run has {steps}",
            key="schedule.warmup",
            notes=(f"the learning rate would end at {peak:.0%} of its peak",),
            hint="schedule.warmup=3%",
        )


@rule("LF202", "evaluation that never happens")
def evaluation_never_happens(context: Context) -> Iterator[Diagnostic]:
    """Evaluation during training was asked for, but none would take place.

    Either the interval is longer than the run, or there is no evaluation data. Give the interval
    as a share of the run (`25%`), or an evaluation set.
    """
    every, steps, data = context.spec.evaluation.every, _steps(context), context.facts.data
    if every is None or data is None:
        return
    if data.evaluation_rows == 0:
        yield Diagnostic(
            "LF202",
            "evaluation is on, but there is no evaluation data",
            key="evaluation.every",
            notes=("`data.evaluation` is not given and `data.eval_fraction` holds out no row",),
            hint="evaluation.every=null"
            if context.spec.data.eval_fraction
            else "data.eval_fraction=0.05",
        )
    elif isinstance(every, int) and steps is not None and every > steps:
        yield Diagnostic(
            "LF202",
            f"evaluation every {every} steps never happens in a run of {steps}",
            key="evaluation.every",
            hint="evaluation.every=25%",
        )


@rule("LF203", "saving that never happens")
def saving_never_happens(context: Context) -> Iterator[Diagnostic]:
    """Checkpoints were asked for, but the interval is longer than the run.

    The final model is always written; a run that is interrupted before its first checkpoint
    starts over, though. Give the interval as a share of the run (`25%`), or null to say that no
    checkpoint is wanted.
    """
    every, steps = context.spec.checkpoint.every, _steps(context)
    if isinstance(every, int) and steps is not None and every > steps:
        yield Diagnostic(
            "LF203",
            f"a checkpoint every {every} steps never happens in a run of {steps}",
            key="checkpoint.every",
            hint="checkpoint.every=25%",
        )


@rule("LF204", "batch arithmetic that does not come out")
def batch_does_not_divide(context: Context) -> Iterator[Diagnostic]:
    """global batch = micro batch x accumulation x processes must hold exactly.

    Anything else trains on another batch size than the one you compare runs by. Leave one of the
    three `auto` and it is solved.
    """
    trainer, world = context.spec.trainer, context.spec.launch.processes
    total, micro, passes = trainer.global_batch, trainer.micro_batch, trainer.accumulation
    if not (
        isinstance(total, int)
        and isinstance(micro, int)
        and isinstance(passes, int)
        and isinstance(world, int)
    ):
        return
    if micro * passes * world == total:
        return
    per_pass = micro * world
    if total % per_pass == 0:
        yield Diagnostic(
            "LF204",
            f"global batch {total} is not micro batch {micro} x accumulation {passes} "
            f"x {world} process{'es' if world > 1 else ''}",
            key="trainer.global_batch",
            notes=(f"the product is {micro * passes * world}",),
            hint=f"trainer.accumulation={total // per_pass}",
        )
        return
    fitting = max(1, round(total / per_pass)) * per_pass
    yield Diagnostic(
        "LF204",
        f"global batch {total} does not divide over {world} process{'es' if world > 1 else ''} "
        f"of micro batch {micro}",
        key="trainer.global_batch",
        notes=(f"accumulation would be {total / per_pass:g}",),
        hint=f"trainer.global_batch={fitting} trainer.accumulation=auto",
    )


@rule("LF206", "length of the run given twice or not at all")
def length_ambiguous(context: Context) -> Iterator[Diagnostic]:
    """A run is as long as `trainer.epochs` or `trainer.max_steps` says, never both."""
    trainer = context.spec.trainer
    if trainer.epochs is None and trainer.max_steps is None:
        yield Diagnostic(
            "LF206",
            "neither trainer.epochs nor trainer.max_steps is given",
            key="trainer.epochs",
            hint="trainer.epochs=1",
        )
    elif trainer.epochs is not None and trainer.max_steps is not None:
        yield Diagnostic(
            "LF206",
            f"both trainer.epochs ({trainer.epochs:g}) and trainer.max_steps "
            f"({trainer.max_steps}) are given",
            key="trainer.max_steps",
            hint="trainer.epochs=null",
        )


@rule("LF207", "fewer training rows than one batch")
def batch_larger_than_data(context: Context) -> Iterator[Diagnostic]:
    """Every optimizer step would see the whole training set: the run learns it by heart.

    A warning: tiny sets are sometimes meant.
    """
    data, total = context.facts.data, context.spec.trainer.global_batch
    if data is not None and isinstance(total, int) and data.train_rows < total:
        fitting = fitting_batch(context, data.train_rows // 8)
        yield Diagnostic(
            "LF207",
            f"{data.train_rows} training rows are fewer than one global batch of {total}",
            Severity.WARNING,
            key="trainer.global_batch",
            hint=f"trainer.global_batch={fitting}" if fitting <= data.train_rows else None,
        )


@rule("LF208", "learning rate that nobody or two set")
def learning_rate_unclear(context: Context) -> Iterator[Diagnostic]:
    """Every optimizer needs a peak rate, unless it sets its own (Adafactor's `relative_step`).

    Then `lr` must be null: a number would be refused by the optimizer itself, after the model is
    loaded. `warmup_init` belongs to `relative_step` alone.
    """
    optimizer = context.spec.optimizer
    own = isinstance(optimizer, Adafactor) and optimizer.relative_step
    if own and optimizer.lr is not None:
        yield Diagnostic(
            "LF208",
            f"a learning rate of {optimizer.lr:g} beside `relative_step`",
            key="optimizer.lr",
            hint="optimizer.lr=null",
        )
    elif not own and optimizer.lr is None:
        yield Diagnostic(
            "LF208",
            f"{optimizer.kind} has no learning rate",
            key="optimizer.lr",
            hint="optimizer.lr=auto",
        )
    if isinstance(optimizer, Adafactor) and optimizer.warmup_init and not own:
        yield Diagnostic(
            "LF208",
            "`warmup_init` without `relative_step`",
            key="optimizer.warmup_init",
            hint="optimizer.warmup_init=false",
        )
