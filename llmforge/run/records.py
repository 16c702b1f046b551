"""What a run folder says of its run: table, curves and card, made from the journal.

In: a plan and its run folder. Out: `metrics.csv`, `curve.png`, `README.md`, each written anew and
whole. They are for people: what goes wrong here is said in the log and never ends a run. They are
written after each evaluation and when an attempt ends, however it ends.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

from llmforge.plan import Plan
from llmforge.run import card
from llmforge.run.folder import RunFolder
from llmforge.run.table import NAME as TABLE
from llmforge.run.table import write_table

CURVE = "curve.png"


def keep_records(plan: Plan, run: RunFolder) -> None:
    """Write table, curves and card."""
    for write in (
        lambda: write_table(run.journal, run.path / TABLE),
        lambda: _draw(plan, run),
        lambda: write_card(plan, run.journal, run.path / card.NAME, run.model.name),
    ):
        _told(write)


def keep_model_card(plan: Plan, run: RunFolder) -> None:
    """Write the card of the final model, beside its weights and before they are sealed."""
    _told(lambda: write_card(plan, run.journal, run.model / card.NAME, "."))


def write_card(plan: Plan, journal: Path, target: Path, place: str) -> Path:
    """Write the card; `place` is where the model is loaded from, as the card says.

    Raises:
        OSError: it could not be written, or the user's own text could not be read.
    """
    text = card.card(plan, journal, place, is_adapter(plan))
    staged = target.with_name(f".{target.name}.tmp")
    staged.write_text(text, encoding="utf-8")
    staged.replace(target)
    return target


def is_adapter(plan: Plan) -> bool:
    """Does the run train an adapter, so that the adapter is what it saves?"""
    return bool(plan.settings["lora"]["kind"] != "none")


def _draw(plan: Plan, run: RunFolder) -> Path | None:
    from llmforge.track.curve import draw_curve

    return draw_curve(run.journal, run.path / CURVE, plan.run_id)


def _told(write: Callable[[], object]) -> None:
    try:
        write()
    except Exception:  # a picture that cannot be drawn must not cost the run
        traceback.print_exc()
