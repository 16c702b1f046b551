"""The verb quantize: a finished model with fewer bits, and what that cost.

In: a run, a folder, a registered version or a hub repository with full weights, or a run whose
adapter was fused; or overrides whose run is finished. Out: `quantized/` and `quantize.json` in the
run folder.
"""

from __future__ import annotations

import argparse

from llmforge.verbs import MakeVerb, tell
from llmforge.verbs.making import add_flags, asked_of, make, say


def add(verb: MakeVerb) -> None:
    """Declare the verb."""
    made = verb("quantize", _quantize, "pack a finished model in fewer bits, and measure the cost")
    add_flags(made, "model", "quantized")


def _quantize(parsed: argparse.Namespace) -> int:
    from llmforge.refs.subjects import find_subject
    from llmforge.run.making.quantizing import quantize_order

    subject = find_subject(asked_of(parsed, "quantize"), say)
    tell(subject.findings)
    order = quantize_order(
        subject.plan, subject.run, subject.place, subject.step, parsed.config_dirs
    )
    return make(subject, order, "quantized")
