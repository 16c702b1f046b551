"""What is foretold of a run: steps, samples, evaluations, checkpoints, parameters.

In: a solved context. Out: `(key, value, reason, reads)` entries for the plan's estimate. Exact
where nothing is random; memory and time are not foretold here.
"""

from __future__ import annotations

from llmforge.compiler.context import Context, Derived
from llmforge.compiler.facts.targets import by_ending, hit_modules
from llmforge.compiler.facts.trained import trained
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
        evaluation, saving = spec.evaluation.every, spec.checkpoint.every
        rows = facts.data.evaluation_rows if facts.data else 0
        during = facts.steps // evaluation if isinstance(evaluation, int) and rows else 0
        add("evaluations", during, "evaluations during training", "evaluation.every")
        add(
            "checkpoints",
            facts.steps // saving if isinstance(saving, int) else 0,
            "checkpoints written during training, before pruning",
            "checkpoint.every",
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
    return found
