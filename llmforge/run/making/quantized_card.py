"""The model card of a quantized model: the run's card, and what the rounding cost.

In: the plan, the run, the order, the figures. Out: README.md in the quantized folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.card import NAME, card, escape, table
from llmforge.run.folder import RunFolder
from llmforge.run.making.order import Order

_BESIDE = (
    ("weights, MiB", "bytes", 2**20),
    ("perplexity", "perplexity", 1),
    ("loss", "loss", 1),
    ("greedy generation, tokens/s", "tokens_per_second", 1),
)
"""Label, figure, and what it is divided by."""
_ALONE = (
    ("mean KL divergence from the source, nats a token", "mean_kl"),
    ("largest KL divergence, nats", "max_kl"),
    ("positions with the same likeliest token", "agreement"),
    ("tokens compared", "tokens_compared"),
    ("seconds of the rounding", "quantizing_seconds"),
)


def write_quantized_card(
    plan: Plan, run: RunFolder, order: Order, figures: Mapping[str, Any], folder: Path
) -> None:
    """Write the card.

    Raises:
        OSError: it could not be written, or the user's own text could not be read.
    """
    sections = [quantized_section(plan, order, figures)]
    text = card(plan, run.journal, ".", adapter=False, sections=sections)
    (folder / NAME).write_text(text, encoding="utf-8")


def quantized_section(plan: Plan, order: Order, figures: Mapping[str, Any]) -> str:
    """Markdown: how it was quantized, and the figures before and after."""
    settings = plan.settings["quantize"]
    how = [f"{settings['bits']} bits"]
    if group := settings.get("group_size"):
        how.append("one scale a column" if group == -1 else f"groups of {group}")
    if found := figures.get("calibration"):
        how.append(f"calibrated on {found['samples']:,} samples of {found['tokens']:,} tokens")
    return (
        f"## Quantized\n\n{escape(order.label)} by {escape(settings['kind'])}: "
        f"{escape(', '.join(how))}; {figures['layers']:,} layers are packed, embeddings and output "
        f"head are not. Measured on {escape(figures['measured_on'])}, before and after; speed is "
        "that of the machine it was made on.\n\n"
        + table(("figure", "before", "after"), _beside(figures))
        + "\n\n"
        + table(("compared with the source", "found"), _alone(figures))
    )


def _beside(figures: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    for label, name, unit in _BESIDE:
        if (before := figures.get(f"{name}_before")) is not None:
            yield label, f"{before / unit:,.6g}", f"{figures[f'{name}_after'] / unit:,.6g}"


def _alone(figures: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for label, name in _ALONE:
        if (value := figures.get(name)) is not None:
            yield label, f"{value:,.4g}"
