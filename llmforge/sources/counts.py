"""How many rows are trained on and how many held out: the arithmetic of splits, caps and weights.

In: rows of each source and set, and the settings of section `data`. Out: `Counts`. The compiler
foretells with it, the worker (`build/data.py`) chooses rows to match. Nothing is read here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from llmforge.schema.data import MixData, Rows

_DUST = 1e-12
"""Share that is rounding: 0.3 / 0.1 is 2.9999999999999996 in floating point, and yet 3."""


@dataclass(frozen=True)
class SourceRows:
    """Usable rows of one source."""

    train: int
    """Rows of its training parts, those that the fold column holds out left out."""
    folded: int = 0
    """Rows that the fold column holds out."""
    sets: Mapping[str, int] = field(default_factory=dict)
    """Rows of its own evaluation sets by name."""


@dataclass(frozen=True)
class Share:
    """What one source gives."""

    held_out: int
    """Of its training rows: chosen by `data.split_seed`."""
    available: int
    """Training rows that it has, surplus evaluation rows included."""
    taken: int
    """Training rows that it gives; more than `available` where a weight repeats them."""
    sets: dict[str, int]
    """Rows of each evaluation set after capping."""


def share_out(
    rows: Mapping[str, SourceRows], data: Rows, default: Mapping[str, str]
) -> dict[str, Share]:
    """What each source gives, by name.

    Args:
        rows: usable rows by source.
        data: the section.
        default: by source, the name of the set that held-out rows make.
    """
    shares: dict[str, Share] = {}
    for name, found in rows.items():
        sets = dict(found.sets)
        held = 0
        if found.folded:
            sets[default[name]] = found.folded
        elif not sets:
            held = held_out(found.train, data.eval_fraction)
            if held:
                sets[default[name]] = held
        capped = {key: _capped(count, data.max_eval_rows) for key, count in sets.items()}
        surplus = sum(sets.values()) - sum(capped.values())
        available = found.train - held + (surplus if data.eval_surplus == "train" else 0)
        shares[name] = Share(held, available, available, capped)
    weights = data.weights if isinstance(data, MixData) else None
    if weights:
        shares = _weighted(shares, weights, data.exhausted)  # type: ignore[attr-defined]
    if data.max_train_rows is not None:
        shares = _limited(shares, data.max_train_rows)
    return shares


def held_out(rows: int, fraction: float) -> int:
    """Rows held out of `rows`: the rounded share, at least one, never all."""
    if fraction == 0 or rows < 2:
        return 0
    return min(max(1, round(rows * fraction)), rows - 1)


def _weighted(
    shares: Mapping[str, Share], weights: Mapping[str, float], exhausted: str
) -> dict[str, Share]:
    """Rows in the proportion of the weights, as many as the first or the last source allows."""
    trained = {name: w for name, w in weights.items() if name in shares and shares[name].available}
    if not trained:
        return dict(shares)
    total = sum(trained.values())
    lengths = [shares[name].available * total / weight for name, weight in trained.items()]
    length = min(lengths) if exhausted == "first" else max(lengths)
    whole = length * (1 + _DUST)
    return {
        name: Share(
            share.held_out,
            share.available,
            max(1, math.floor(trained[name] / total * whole)) if name in trained else 0,
            share.sets,
        )
        for name, share in shares.items()
    }


def _limited(shares: Mapping[str, Share], limit: int) -> dict[str, Share]:
    """The first `limit` rows of all; of several sources, each in proportion."""
    total = sum(share.taken for share in shares.values())
    if total <= limit:
        return dict(shares)
    made, given, seen = {}, 0, 0
    for name, share in shares.items():
        seen += share.taken
        upto = seen * limit // total  # running, so that the parts sum to the limit
        made[name] = Share(share.held_out, share.available, upto - given, share.sets)
        given = upto
    return made


def _capped(rows: int, limit: int | None) -> int:
    return rows if limit is None else min(rows, limit)
