"""LF209: what does not fit the device."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.memory.fit import sheet_of
from llmforge.compiler.memory.remedies import smallest_change
from llmforge.compiler.memory.sheet import Sheet, gib
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic
from llmforge.schema.precision import BitsAndBytes

_SHOWN = 4


@rule("LF209", "more memory than the device has")
def more_memory_than_there_is(context: Context) -> Iterator[Diagnostic]:
    """The largest phase of the run needs more memory than one device has, so that it would end in
    out-of-memory: at the first step, or at the first evaluation after hours of training.

    Every phase is foretold from the model's shape, a row being as long as `collator.max_length`;
    `llmforge plan` shows the sheet. The hint is the smallest change that fits, by foretelling it
    again; `llmforge plan --fit trainer.micro_batch` (or `collator.max_length`, `lora.r`) gives the
    largest value. Changes of speed alone are tried before those that change what is learnt.
    """
    sheet = sheet_of(context)
    if sheet is None or sheet.fits:
        return
    found = smallest_change(context)
    phase = sheet.peak_phase
    yield Diagnostic(
        "LF209",
        f"the {phase} phase needs {gib(sheet.needed)}, the device has {gib(sheet.available)}",
        key="hardware.memory_gib",
        notes=(
            f"largest parts: {_parts(sheet)}",
            *_experts(context),
            *(() if found else ("nothing that was tried fits: a smaller model, or more devices",)),
        ),
        hint=found,
    )


def _experts(context: Context) -> Iterator[str]:
    """bitsandbytes packs linear modules, and experts are none."""
    model = context.facts.model
    if model and model.experts and isinstance(context.spec.quantization, BitsAndBytes):
        share = model.expert_parameters / model.parameters
        yield f"experts are no linear modules: {share:.0%} of the weights stay as they are"


def _parts(sheet: Sheet) -> str:
    terms = sheet.phases[sheet.peak_phase]
    largest = sorted(terms, key=terms.__getitem__, reverse=True)[:_SHOWN]
    return ", ".join(f"{name.replace('_', ' ')} {gib(terms[name])}" for name in largest)
