"""The model card of what was made of a run's model: the run's card, and how it was made.

In: the plan, the run, the order, the figures. Out: README.md in the made folder. Figures of the
training are those of the run; where an earlier checkpoint was taken, the card says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.card import NAME, card, escape, table
from llmforge.run.folder import RunFolder
from llmforge.run.making.order import Order
from llmforge.run.making.originals import BASE

_PROOF: tuple[tuple[str, str, str | None, str], ...] = (
    ("mean KL divergence, nats a token", "mean_kl", "max_kl", "at most"),
    ("largest KL divergence, nats", "max_kl", None, ""),
    ("positions with the same likeliest token", "agreement", "min_agreement", "at least"),
    ("of the adapter's effect lost, share", "lost", "max_lost", "at most"),
    ("largest difference of a logit, deviations", "max_relative", "max_difference", "at most"),
    ("mean difference of a logit, deviations", "mean_relative", None, ""),
    ("largest difference of a logit", "max_difference", None, ""),
    ("mean difference of a logit", "mean_difference", None, ""),
    ("tokens compared", "tokens", None, ""),
)
"""Label, figure of the proof, the bound on it, and on which side of it."""


def write_made_card(
    plan: Plan, run: RunFolder, order: Order, figures: Mapping[str, Any], folder: Path
) -> None:
    """Write the card of a fused model.

    Raises:
        OSError: it could not be written, or the user's own text could not be read.
    """
    text = card(plan, run.journal, ".", adapter=False, sections=[fused_section(order, figures)])
    (folder / NAME).write_text(text, encoding="utf-8")


def fused_section(order: Order, figures: Mapping[str, Any]) -> str:
    """Markdown: from what the model was fused, and the proof that it is the same."""
    merge, proof = figures["merge"], figures["proof"]
    rows = [*_rows(proof), ("greedy texts the same", f"{proof['same_texts']} of "
            f"{len(proof['probes'])}", "")]  # fmt: skip
    return (
        f"## Fused\n\nThe adapter ({escape(merge['kind'])}) of {escape(order.label)} was merged "
        f"into its base{_named(order)}: {merge['modules']:,} "
        f"modules, in {escape(merge['dtype'])}. The merged model was compared with base and "
        f"adapter, both computed in {escape(proof['computed_in'])}; tokenizer, chat template and "
        "special tokens are the same.\n\n" + table(("compared", "found", "allowed"), rows)
    )


def _named(order: Order) -> str:
    """The base's name, where it has one; a run from scratch keeps it beside the adapter."""
    name = order.base_label.rpartition("/")[2]
    return "" if name == BASE else f" {escape(name)}"


def _rows(proof: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    found, bounds = proof["overall"], proof["bounds"]
    for label, name, bound, side in _PROOF:
        value = found.get(name)
        if value is not None:
            yield label, f"{value:,.4g}", f"{side} {bounds[bound]:g}" if bound else ""
