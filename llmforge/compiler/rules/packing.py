"""LF510, LF517: packed samples that would see each other, and settings that packing undoes."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.facts.isolation import isolates
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity

_OFF = "collator.packing=none"


@rule("LF510", "packed samples that would see each other")
def packed_samples_see_each_other(context: Context) -> Iterator[Diagnostic]:
    """Samples packed into one row must not attend to each other: every one would be learnt with a
    stranger's text before it, and nothing would tell.

    Whether a model keeps them apart hangs on its family and its attention implementation. Families
    that nobody has tried are refused; a model whose config.json is not here is a warning, and the
    run proves the isolation on its first batch before it takes a step.
    """
    if context.spec.collator.packing == "none":
        return
    attention = context.spec.model.attention
    family = context.facts.model_config.get("model_type")
    if family is None:
        yield Diagnostic(
            "LF510",
            "packing for a model that is not known yet, so nobody can say whether it keeps "
            "samples apart",
            severity=Severity.WARNING,
            key="collator.packing",
            notes=("the first batch will be tried before a step is taken",),
            hint=_OFF,
        )
        return
    versions = context.facts.versions
    found = isolates(family, attention, versions)
    if found.ok:
        return
    other = attention != "sdpa" and isolates(family, "sdpa", versions).ok
    yield Diagnostic(
        "LF510",
        f"packed samples would see each other: `{family}` with `{attention}` attention",
        key="model.attention" if other else "collator.packing",
        notes=(found.reason,),
        hint="model.attention=sdpa" if other else _OFF,
    )


@rule("LF517", "setting that packing undoes")
def undone_by_packing(context: Context) -> Iterator[Diagnostic]:
    """Packed rows are all about as long as `collator.max_length`, and are planned over the whole
    set before training.

    Grouping them by length gains nothing and makes the order less random. A streamed set is never
    whole. NEFTune's noise shrinks with the length of the row, so packing weakens it: a warning.
    """
    if context.spec.collator.packing == "none":
        return
    trainer = context.spec.trainer
    if trainer.group_by_length is True:
        yield Diagnostic(
            "LF517",
            "rows grouped by length, while packing makes them all full",
            key="trainer.group_by_length",
            hint="trainer.group_by_length=false",
        )
    if context.spec.data.streaming:
        yield Diagnostic(
            "LF517",
            "packing over the whole set, while the set is streamed",
            key="data.streaming",
            notes=("best-fit packing looks at every sample's length first",),
            hint=_OFF,
        )
    if trainer.neftune_alpha is not None:
        yield Diagnostic(
            "LF517",
            f"NEFTune noise of {trainer.neftune_alpha:g}, which packed rows weaken",
            severity=Severity.WARNING,
            key="trainer.neftune_alpha",
            notes=("the noise is divided by the root of the row's length, not of each sample's",),
            hint="trainer.neftune_alpha=null",
        )
