"""What is foretold of a run: steps, samples, evaluations, checkpoints, parameters, memory, disk.

In: a solved context. Out: `(key, value, reason, reads)` entries for the plan's estimate. Exact
where nothing is random; memory is `memory/`'s, time is not foretold.
"""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context, Derived
from llmforge.compiler.facts.targets import by_ending, hit_modules
from llmforge.compiler.facts.trained import trained
from llmforge.compiler.memory.disk import (
    checkpoints_at_once,
    checkpoints_written,
    disk_of,
    most_at_once,
)
from llmforge.compiler.memory.fit import sheet_of
from llmforge.schema.adapter import NoAdapter, TargetedAdapter


def foretell(context: Context) -> list[Derived]:
    """Entries of the plan's `estimate`, keys without a prefix."""
    spec, facts = context.spec, context.facts
    found: list[Derived] = []

    def add(key: str, value: object, reason: str, *reads: str) -> None:
        found.append(Derived(key, value, reason, reads))

    if facts.steps is not None:
        add(
            "steps",
            facts.steps,
            "optimizer steps of the whole run",
            "trainer.epochs",
            "trainer.max_steps",
            "trainer.global_batch",
            "facts.data.rows.train",
        )
        add(
            "steps_per_epoch",
            facts.steps_per_epoch,
            "training rows over the global batch",
            "trainer.global_batch",
            "facts.data.rows.train",
        )
        evaluation = spec.evaluation.every
        rows = facts.data.evaluation_rows if facts.data else 0
        during = facts.steps // evaluation if isinstance(evaluation, int) and rows else 0
        delay = spec.evaluation.delay if isinstance(spec.evaluation.delay, int) else 0
        if during and isinstance(evaluation, int):
            during = max(0, during - max(0, delay - 1) // evaluation)
        reads = ("evaluation.every", "evaluation.delay")
        add("evaluations", during, "evaluations during training", *reads)
        if rows and (asked := min(rows, spec.evaluation.exact_match_rows)):
            times = 1 + int(spec.evaluation.at_start)
            why = "rows answered at the end of the run, and before it with `evaluation.at_start`"
            if spec.evaluation.answers == "always":
                # the Trainer evaluates after the last step, whether or not it is the interval's
                times += during + bool(isinstance(evaluation, int) and facts.steps % evaluation)
                why = "rows answered at every evaluation, those at both ends of the run included"
            more = ("evaluation.exact_match_rows", "evaluation.answers", *reads)
            add("answers", times * asked, why, *more)
            longest = times * asked * spec.generation.max_new_tokens
            why = "if every answer were as long as allowed"
            add("answer_tokens_at_most", longest, why, "generation.max_new_tokens", *more)
        add(
            "checkpoints",
            checkpoints_written(spec, facts.steps),
            "checkpoints written, the one after the last step among them, before pruning",
            "checkpoint.every",
        )
        taken = _samples(context, facts.steps)
        why = "rows or packs that training sees, those of later epochs counted again"
        add(
            "samples", taken, why, "estimate.steps", "trainer.global_batch", "facts.data.rows.train"
        )
        add(
            "tokens_at_most",
            taken * int(spec.collator.max_length) * spec.trainer.SEQUENCES,
            "if every row were as long as allowed",
            "estimate.samples",
            "collator.max_length",
        )
    if facts.model is not None:
        add("total_parameters", facts.model.parameters, "sum over the model's weights", "model")
        full = isinstance(spec.lora, NoAdapter)
        why = "every weight" if full else f"what `lora.kind={spec.lora.kind}` adds and trains"
        counts = trained(facts.model, spec.lora)
        add("trainable_parameters", counts and counts.trainable, why, "lora", "model")
        if counts is not None and not full:
            why = "of all parameters, the adapter's among them"
            add("trainable_share", counts.share, why, "lora", "model")
        if isinstance(spec.lora, TargetedAdapter):
            hit = hit_modules(facts.model, spec.lora)
            add("adapted", by_ending(hit), "modules that `lora.targets` hits", "lora.targets")
            add("adapted_modules", len(hit), "all of them", "lora.targets", "model")
    return [*found, *_memory(context), *_disk(context)]


def _samples(context: Context, steps: int) -> int:
    """Of the whole run: the last step of an epoch takes what is left."""
    batch, epoch = int(context.spec.trainer.global_batch), context.facts.samples
    per_epoch = context.facts.steps_per_epoch
    if epoch is None or per_epoch is None:
        return steps * batch
    whole, rest = divmod(steps, per_epoch)
    return whole * epoch.count + min(rest * batch, epoch.count)


_WHY = {
    "load": "weights as they are loaded",
    "step": "the largest moment of an optimizer step",
    "evaluation": "a forward pass without gradients",
    "save": "weights are written one by one",
}


def _memory(context: Context) -> Iterator[Derived]:
    """Bytes of one device, by phase and term."""
    sheet = sheet_of(context)
    if sheet is None:
        return
    reads = ("model", "precision", "quantization", "lora", "optimizer", "trainer", "collator")
    for phase, terms in sheet.phases.items():
        for name, amount in terms.items():
            why = f"{_WHY[phase]}: {sheet.moment}" if phase == "step" else _WHY[phase]
            yield Derived(f"memory.{phase}.{name}", amount, why, reads)
    for name, amount in sheet.host.items():
        yield Derived(f"memory.host.{name}", amount, "kept in main memory", ("deepspeed", "fsdp"))
    why = f"most allocated at once, in the {sheet.peak_phase} phase"
    yield Derived("memory.peak_phase", sheet.peak_phase, "the largest total", reads)
    yield Derived("memory.peak_bytes", sheet.peak, why, reads)
    yield Derived("memory.outside_bytes", sheet.outside, "driver and libraries", ("hardware",))
    yield Derived(
        "memory.slack_bytes", sheet.slack, "gaps between blocks", ("estimate.memory.peak_bytes",)
    )
    yield Derived("memory.available_bytes", sheet.available, "of one device", ("hardware",))


def _disk(context: Context) -> Iterator[Derived]:
    """Bytes of the final model and of a checkpoint."""
    sizes = disk_of(context)
    if sizes is None:
        return
    reads = ("model", "lora", "precision", "optimizer")
    yield Derived("disk.model_bytes", sizes.model, "weights of the final model", reads)
    if sizes.fused:
        why = "all parameters in the format of the fused model"
        yield Derived("disk.fused_bytes", sizes.fused, why, (*reads, "fuse"))
    why = "weights and optimizer state"
    yield Derived("disk.checkpoint_bytes", sizes.checkpoint, why, reads)
    there = checkpoints_at_once(context.spec, context.facts.steps)
    total = most_at_once(context.spec, sizes, context.facts.steps)
    if total is not None:
        why = f"the final model and at most {there} checkpoints, one while it replaces another"
        yield Derived("disk.total_bytes", total, why, ("checkpoint", *reads))
