"""Keywords of TRL's `DPOConfig`, beside those of every `TrainingArguments`.

In: a solved context. Out: keyword -> value and its source; nothing for other trainers.
"""

from __future__ import annotations

from llmforge.compiler.context import Context
from llmforge.compiler.lower.base import Lowered
from llmforge.schema.preference import DpoSpec


def trl(context: Context) -> Lowered:
    """What the preference trainer is told; its data are tokenised and cut already."""
    trainer, batch = context.spec.trainer, context.spec.evaluation.micro_batch
    if not isinstance(trainer, DpoSpec):
        return {}
    return {
        "beta": (trainer.beta, "trainer.beta"),
        "loss_type": ([trainer.loss], "trainer.loss"),
        "label_smoothing": (trainer.label_smoothing, "trainer.label_smoothing"),
        "precompute_ref_log_probs": (trainer.reference == "precomputed", "trainer.reference"),
        "precompute_ref_batch_size": (batch, "evaluation.micro_batch"),
        "disable_dropout": (trainer.disable_dropout, "trainer.disable_dropout"),
        "max_length": (None, "collator.max_length"),
    }
