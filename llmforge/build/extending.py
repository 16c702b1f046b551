"""Components of the user's own, made from their settings: callbacks, metrics, collators, keywords.

In: a plan. Out: instances of the classes that the registry names, checked to be of the right kind.
A component is made with its own fields as keywords: those of its spec that the spec class it
inherits from does not have.

Trainer and optimizer are made where shipped ones are; here stand their keywords.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from llmforge import registry
from llmforge.build.errors import building
from llmforge.build.measures import Metric
from llmforge.build.sample import Rejected, Sample
from llmforge.plan import Plan
from llmforge.registry import Component
from llmforge.schema import Spec
from llmforge.schema.collate import CollatorSpec
from llmforge.sources.base import Row

SampleBuilder = Callable[[Sequence[Row], Any, Plan], list[Sample | Rejected]]


class WrongBase(TypeError):
    """A builder that inherits from another class than it must."""


class BaseCollator:
    """What a collator of one's own inherits from: rows to samples, and batches if need be.

        class LastWord(llmforge.BaseCollator):
            def sample(self, row):
                ids = self.tokenizer(row["text"]).input_ids
                return ids, [-100] * (len(ids) - 1) + ids[-1:]

    `self.tokenizer` and `self.settings` (the section `collator`) are there when its methods are
    called. Samples are made once, when the data are prepared, in several processes perhaps; they
    must depend on nothing but the row, the tokenizer and the settings.
    """

    tokenizer: Any
    settings: CollatorSpec

    def sample(self, row: Mapping[str, Any]) -> tuple[Sequence[int], Sequence[int]] | str | None:
        """The token ids of a row, and for each its label: the id itself, or -100 for no loss.

        None leaves the row out; a text does so too, and is the reason that reports tell.
        """
        raise NotImplementedError(f"{type(self).__name__} has no sample")

    def prompt(self, row: Mapping[str, Any]) -> str:
        """What people read as the question, and exact match asks; empty for none."""
        del row
        return ""

    def batch(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The last word on a padded batch (`input_ids`, `labels`, ..., [batch, time])."""
        return batch


def own_fields(chosen: Spec, section: str) -> dict[str, Any]:
    """Fields of a spec that the section's base class does not have, as keywords."""
    module, name = registry.OPEN[section]
    base: type[Spec] = getattr(importlib.import_module(module), name)
    settings = chosen.settings()
    return {key: settings[key] for key in type(chosen).model_fields if key not in base.model_fields}


def load_class(component: Component, *bases: type) -> Any:
    """The class behind a component's reference.

    Raises:
        WrongBase: it is no class, or inherits from none of `bases`.
    """
    found = component.load_builder()
    if not (isinstance(found, type) and issubclass(found, bases)):
        names = " or ".join(f"{base.__module__}.{base.__name__}" for base in bases)
        what = f"{component.builder} of {component.section} kind `{component.kind}`"
        raise WrongBase(f"{what} must be a class that inherits from {names}")
    return found


def own_callbacks(plan: Plan) -> list[Any]:
    """Instances of the plan's `callbacks`, in their order."""
    from transformers import TrainerCallback

    made = []
    for name, chosen in plan.spec.callbacks.items():
        with building(f"callbacks.{name}", plan):
            found = load_class(registry.component("callback", chosen.kind), TrainerCallback)
            made.append(found(**own_fields(chosen, "callback")))
    return made


def own_metrics(plan: Plan) -> dict[str, Metric]:
    """Instances of the plan's `metrics` by the names they are reported under."""
    from llmforge.build.measures import LogitsMetric, TextMetric

    made = {}
    for name, chosen in plan.spec.metrics.items():
        with building(f"metrics.{name}", plan):
            base = LogitsMetric if type(chosen).on == "logits" else TextMetric
            found = load_class(registry.component("metric", chosen.kind), base)
            made[name] = found(**own_fields(chosen, "metric"))
    return made


def sample_builder(plan: Plan) -> SampleBuilder:
    """The builder of samples that the plan's collator names: a function, or a `BaseCollator`."""
    component = registry.component("collator", plan.spec.collator.kind)
    found: SampleBuilder = component.load_builder()
    if inspect.isclass(found):
        return partial(_by_class, load_class(component, BaseCollator))
    return found


def own_collator(plan: Plan, tokenizer: Any) -> BaseCollator | None:
    """An instance of a collator of the user's own; None for a shipped one, or for a function."""
    component = registry.component("collator", plan.spec.collator.kind)
    if not component.is_own or not inspect.isclass(component.load_builder()):
        return None
    return _make_collator(load_class(component, BaseCollator), tokenizer, plan)


def _make_collator(found: type[BaseCollator], tokenizer: Any, plan: Plan) -> BaseCollator:
    from llmforge.build.experiment import active

    more = active(plan).keywords("collator")
    made = found(**{**own_fields(plan.spec.collator, "collator"), **more})
    made.tokenizer, made.settings = tokenizer, plan.spec.collator
    return made


def _by_class(
    found: type[BaseCollator], rows: Sequence[Row], tokenizer: Any, plan: Plan
) -> list[Sample | Rejected]:
    collator = _make_collator(found, tokenizer, plan)
    return [_sample(collator, row) for row in rows]


def _sample(collator: BaseCollator, row: Row) -> Sample | Rejected:
    made = collator.sample(row.values)
    if made is None or isinstance(made, str):
        return Rejected("empty", made or "")
    ids, labels = made
    return Sample(ids, labels, collator.prompt(row.values))
