"""The parts of a run, built from the plan in the order they need each other.

In: a plan and the prepared data. Out: `Parts`: tokenizer, model (wrapped by its adapter), collator,
data. A failure names the section and the line of configuration that asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from llmforge import registry
from llmforge.build.collate import Collator
from llmforge.build.errors import building
from llmforge.build.prepared import Prepared
from llmforge.build.tokenizer import open_tokenizer
from llmforge.plan import Plan


@dataclass
class Parts:
    """What a Trainer is made of."""

    tokenizer: Any
    """The one the data were prepared with."""
    model: Any
    """`PreTrainedModel`, or `PeftModel` around one."""
    collator: Collator
    train: Dataset
    evaluation: Dataset | None


def build_parts(plan: Plan, prepared: Prepared) -> Parts:
    """Build everything but the Trainer.

    Raises:
        BuildError: a builder failed; the library's own exception is its `__cause__`.
    """
    spec = plan.spec
    with building("tokenizer", plan):
        tokenizer = open_tokenizer(prepared.tokenizer_folder)
        # a tokenizer does not remember a side that was set after it was made
        tokenizer.padding_side = "left" if spec.tokenizer.padding_side == "left" else "right"
    with building("model", plan):
        build_model = registry.component("model", spec.model.kind).load_builder()
        model = build_model(plan, tokenizer)
    adapter = registry.component("lora", spec.lora.kind)
    if adapter.builder is not None:
        with building("lora", plan):
            model = adapter.load_builder()(plan, model)
    with building("collator", plan):
        collator = Collator(
            pad_id=tokenizer.pad_token_id,
            side=tokenizer.padding_side,
            multiple=spec.collator.pad_to_multiple,
            max_length=int(spec.collator.max_length),
        )
    return Parts(tokenizer, model, collator, prepared.train, prepared.evaluation)
