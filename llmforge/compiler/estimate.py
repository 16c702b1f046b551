"""What is foretold of a run: steps, samples, evaluations, checkpoints, parameters.

In: a solved context. Out: `(key, value, reason, reads)` entries for the plan's estimate. Exact
where nothing is random; memory and time are not foretold here.
"""

from __future__ import annotations

from llmforge.compiler.context import Context, Derived
from llmforge.compiler.facts.families import lora_parameters, match_modules
from llmforge.schema.adapter import Lora


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
        add(
            "trainable_parameters",
            trainable_parameters(context),
            "rank x (in + out) per adapted module"
            if isinstance(spec.lora, Lora)
            else "every weight",
            "lora",
            "model",
        )
    return found


def trainable_parameters(context: Context) -> int | None:
    """Weights that receive gradients; None where it depends on modules only the build knows."""
    model, lora = context.facts.model, context.spec.lora
    if model is None:
        return None
    if not isinstance(lora, Lora):
        return model.parameters
    if lora.modules_to_save or lora.bias != "none":
        return None
    modules = match_modules(model, lora.targets)
    magnitudes = sum(module.out_features for module in modules) if lora.dora else 0
    return lora_parameters(modules, lora.r) + magnitudes
