"""The parts of a run, built from the plan in the order they need each other.

In: a plan and the prepared data. Out: `Parts`: tokenizer, model (wrapped by its adapter), collator,
data. A failure names the section and the line of configuration that asked for it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datasets import Dataset

from llmforge import registry
from llmforge.build import bases
from llmforge.build.adapter_start import start_from_data
from llmforge.build.collate import Collator
from llmforge.build.errors import building
from llmforge.build.experiment import Hooks, active
from llmforge.build.extending import BaseCollator, own_collator, own_metrics
from llmforge.build.measures import Metric
from llmforge.build.prepared import Prepared
from llmforge.build.tokenizer import open_tokenizer
from llmforge.plan import Plan

BatchMaker = Callable[[Sequence[Mapping[str, Any]]], dict[str, Any]]


@dataclass
class Parts:
    """What a Trainer is made of."""

    tokenizer: Any
    """The one the data were prepared with."""
    model: Any
    """`PreTrainedModel`, or `PeftModel` around one."""
    collator: BatchMaker
    """Samples to a padded batch."""
    train: Any
    """`Dataset` of samples, or `PackedDataset` of packs of them."""
    evaluation: Dataset | None
    """Samples of all evaluation sets; column `set` numbers them."""
    sets: list[str]
    """Names of the evaluation sets."""
    metrics: dict[str, Metric] = field(default_factory=dict)
    """Metrics of the user's own, by name."""


def build_parts(plan: Plan, prepared: Prepared) -> Parts:
    """Build everything but the Trainer; parts that were given ready-made are taken as they are.

    Raises:
        BuildError: a builder failed; the library's own exception is its `__cause__`.
        HookFailed: a hook of the experiment raised.
    """
    hooks = active(plan)
    with building("tokenizer", plan):
        tokenizer = hooks.build("tokenizer", lambda: _open_tokenizer(plan, prepared))
    with building("model", plan):
        build_model = registry.component("model", plan.spec.model.kind).load_builder()
        model = hooks.build(
            "model", lambda: bases.taken(plan, tokenizer, lambda: build_model(plan, tokenizer))
        )
    model = _with_adapter(plan, model, hooks)
    with building("collator", plan):
        collator = hooks.build("collator", lambda: data_collator(plan, tokenizer))
    with building("data", plan):
        train = hooks.build("train_dataset", prepared.training_set)
        evaluation = hooks.build("eval_dataset", lambda: prepared.evaluation)
    if plan.spec.lora.kind == "eva":
        with building("lora", plan):
            start_from_data(plan, model, train, collator)
    bases.placed()
    sets = list((prepared.report["evaluation"] or {"sets": ()})["sets"])
    return Parts(tokenizer, model, collator, train, evaluation, sets, own_metrics(plan))


def _open_tokenizer(plan: Plan, prepared: Prepared) -> Any:
    tokenizer = open_tokenizer(prepared.tokenizer_folder)
    # a tokenizer does not remember a side that was set after it was made
    tokenizer.padding_side = "left" if plan.spec.tokenizer.padding_side == "left" else "right"
    return tokenizer


def _with_adapter(plan: Plan, model: Any, hooks: Hooks) -> Any:
    """The model wrapped as the plan says, or by a configuration that was given ready-made."""
    from peft import PeftModel, get_peft_model

    adapter, given = registry.component("lora", plan.spec.lora.kind), hooks.experiment.lora_config
    if isinstance(model, PeftModel) or (adapter.builder is None and given is None):
        return model
    with building("lora", plan):
        if given is not None:
            return hooks.change("lora_apply", model, lambda base: get_peft_model(base, given))
        wrap = adapter.load_builder()
        return hooks.change("lora_apply", model, lambda base: wrap(plan, base))


def data_collator(plan: Plan, tokenizer: Any) -> BatchMaker:
    """The collator of the plan, for training and evaluation alike."""
    spec = plan.spec
    padded = Collator(
        pad_id=tokenizer.pad_token_id,
        side="left" if spec.tokenizer.padding_side == "left" else "right",
        multiple=spec.collator.pad_to_multiple,
        max_length=int(spec.collator.max_length),
        attention=str(spec.model.attention),
    )
    own = own_collator(plan, tokenizer)
    return padded if own is None else OwnBatches(padded, own)


@dataclass(frozen=True)
class OwnBatches:
    """Batches that a collator of the user's own has the last word on."""

    padded: Collator
    own: BaseCollator

    @property
    def side(self) -> str:
        return self.padded.side

    @property
    def tokenizer(self) -> Any:
        return self.own.tokenizer

    def __call__(self, samples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """As `Collator`.

        Raises:
            TypeError: the collator returned no batch.
        """
        batch = self.own.batch(self.padded(samples))
        if not isinstance(batch, dict) or "labels" not in batch:
            name = type(self.own).__qualname__
            raise TypeError(f"`batch` of {name} must return the batch, a dict with `labels`")
        return batch
