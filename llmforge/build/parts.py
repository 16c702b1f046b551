"""The parts of a run, built from the plan in the order they need each other.

In: a plan and the prepared data. Out: `Parts`: tokenizer, model (wrapped by its adapter), collator,
data. A failure names the section and the line of configuration that asked for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from datasets import Dataset

from llmforge import registry
from llmforge.build.adapter_start import start_from_data
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
    train: Any
    """`Dataset` of samples, or `PackedDataset` of packs of them."""
    evaluation: Dataset | None
    """Samples of all evaluation sets; column `set` numbers them."""
    sets: list[str]
    """Names of the evaluation sets."""


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
        collator = data_collator(plan, tokenizer)
    train = prepared.training_set()
    if spec.lora.kind == "eva":
        with building("lora", plan):
            start_from_data(plan, model, train, collator)
    sets = list((prepared.report["evaluation"] or {"sets": ()})["sets"])
    return Parts(tokenizer, model, collator, train, prepared.evaluation, sets)


def data_collator(plan: Plan, tokenizer: Any) -> Collator:
    """The collator of the plan, for training and evaluation alike."""
    spec = plan.spec
    return Collator(
        pad_id=tokenizer.pad_token_id,
        side="left" if spec.tokenizer.padding_side == "left" else "right",
        multiple=spec.collator.pad_to_multiple,
        max_length=int(spec.collator.max_length),
        attention=str(spec.model.attention),
    )
