"""A step that was not finite, told with files and lines.

In: what a trainer found out about it, the prepared samples, the run folder. Out: `not_finite.json`
in the folder, and the same in a few lines for the diagnostic.

Rows are looked up by reading the sources again, which happens once, when the run has failed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from llmforge import registry
from llmforge.build.culprits import SAMPLES, SOURCE_ROW, Culprit, Row
from llmforge.build.errors import NonFiniteLoss
from llmforge.build.prepared import Prepared
from llmforge.plan import Plan
from llmforge.run.folder import RunFolder

FILE = "not_finite.json"

_SHOWN = 5
"""Micro batches, and rows of each, that the diagnostic names; the file has all."""


def tell_culprits(plan: Plan, prepared: Prepared, run: RunFolder, fault: NonFiniteLoss) -> None:
    """Write the file, and give `fault` its lines."""
    places = _places(plan, prepared, fault.culprits)
    batches = [_batch(culprit, places) for culprit in fault.culprits]
    run.write_json(FILE, {"step": fault.step, "what": fault.what, "micro_batches": batches})
    lines = [_line(batch) for batch in batches[:_SHOWN]]
    if len(batches) > _SHOWN:
        lines.append(f"and {len(batches) - _SHOWN} more micro batches")
    fault.told = (*lines, f"all of it is in {run.path / FILE}")


def forget_culprits(run: RunFolder) -> None:
    """A new attempt: what an earlier one stumbled over is no longer so."""
    (run.path / FILE).unlink(missing_ok=True)


def _places(
    plan: Plan, prepared: Prepared, culprits: Iterable[Culprit]
) -> dict[tuple[str, Row], str]:
    """`file:line` of everything that stands in the batches."""
    wanted = {
        (kind, number)
        for culprit in culprits
        for kind, numbers in culprit.rows
        for number in numbers
    }
    rows: dict[tuple[str, Row], int] = {}
    for kind, number in wanted:
        if kind == SAMPLES:
            rows[kind, number] = int(prepared.train[int(number)]["source_row"])
        elif kind == SOURCE_ROW:
            rows[kind, number] = int(number)
    found = _lines(plan, set(rows.values())) if rows else {}
    known = {item: found.get(row, f"row {row}") for item, row in rows.items()}
    return {item: known.get(item, str(item[1])) for item in wanted}


def _lines(plan: Plan, numbers: set[int]) -> dict[int, str]:
    """Places of training rows, by their number among all of them, those left out counted too."""
    splits = registry.component("data", plan.spec.data.kind).load_builder()(plan)
    found: dict[int, str] = {}
    for number, item in enumerate(splits.train):
        if number in numbers:
            found[number] = item.place
            if len(found) == len(numbers):
                break
    return found


def _batch(culprit: Culprit, places: dict[tuple[str, Row], str]) -> dict[str, Any]:
    losses: list[float | None] = [None] * len(culprit.rows)
    if culprit.row_losses is not None:
        losses = [*culprit.row_losses]
    return {
        "rank": culprit.rank,
        "micro_batch": culprit.micro_batch,
        "of": culprit.of,
        "loss": _number(culprit.loss),
        "gradient_norm": _number(culprit.gradient_norm),
        "rows": [
            {"places": [places[kind, number] for number in numbers], "loss": _number(loss)}
            for (kind, numbers), loss in zip(culprit.rows, losses, strict=True)
        ],
        "not_measured": culprit.unmeasured or None,
    }


def _number(value: float | None) -> float | str | None:
    """JSON has no word for what is not finite."""
    return value if value is None or math.isfinite(value) else str(value)


def _line(batch: dict[str, Any]) -> str:
    where = f"rank {batch['rank']}, micro batch {batch['micro_batch']} of {batch['of']}"
    spoiled = [row for row in batch["rows"] if isinstance(row["loss"], str)]
    measured = spoiled or batch["rows"]
    places = [place for row in measured for place in row["places"]]
    shown = ", ".join(places[:_SHOWN]) or "rows unknown: the data set does not tell them"
    more = f" and {len(places) - _SHOWN} more" if len(places) > _SHOWN else ""
    figures = f"loss {_shown(batch['loss'])}"
    if batch["gradient_norm"] is not None:
        figures += f", gradient norm {_shown(batch['gradient_norm'])}"
    alone = ""
    if spoiled and len(spoiled) < len(batch["rows"]):
        alone = " (the other rows of it are finite)"
    return f"{where}, {figures}: {shown}{more}{alone}"


def _shown(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"
