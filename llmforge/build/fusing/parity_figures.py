"""How far two tables of logits agree.

In: logits of two models on the same tokens. Out: an `Agreement`. No bounds are known here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from llmforge.build.fusing.parity_look import margin

_AT_ONCE = 32
"""Positions compared at a time, in float64: a large vocabulary takes 1 MB a position."""


@dataclass(frozen=True)
class Agreement:
    """How far two models agree on a probe, or on all."""

    tokens: int
    """Positions compared."""
    max_difference: float
    """Of a logit."""
    mean_difference: float
    max_relative: float
    """In standard deviations of the logits at a position, as a mean over positions."""
    mean_relative: float
    max_kl: float
    """At one position, in nats."""
    mean_kl: float
    agreement: float
    """Share of positions with the same likeliest token."""
    lost: float
    """The difference, root mean square, as a share of what the adapter changes in the logits."""
    effect: float
    """What that is: root mean square, in logits."""
    widest_flip: float
    """Where the likeliest token differs, how far it was before the next at most, in deviations."""


def agree(one: torch.Tensor, two: torch.Tensor, effect: float) -> Agreement:
    """Compare logits [tokens, rows]; of tables of unlike length, the rows that both have.

    Args:
        effect: sum of the squares of what the adapter changes in the logits of `one`.
    """
    rows = min(one.shape[1], two.shape[1])
    sums = {"squares": 0.0, "difference": 0.0, "relative": 0.0, "kl": 0.0, "same": 0.0}
    most = {"difference": 0.0, "relative": 0.0, "kl": 0.0, "flip": 0.0}
    for start in range(0, len(one), _AT_ONCE):
        a, b = (part[start : start + _AT_ONCE, :rows].double() for part in (one, two))
        gap = (a - b).abs()
        spread = a.std(dim=-1, keepdim=True).clamp_min(1e-12)
        p, q = a.log_softmax(-1), b.log_softmax(-1)
        kl = (p.exp() * (p - q)).sum(-1).clamp_min(0.0)
        same = a.argmax(-1) == b.argmax(-1)
        for name, value in (("difference", gap), ("relative", gap / spread)):
            most[name] = _larger(most[name], value)
            sums[name] += float(value.mean(-1).sum())
        sums["squares"] += float(gap.square().sum())
        most["kl"] = _larger(most["kl"], kl)
        sums["kl"] += float(kl.sum())
        sums["same"] += float(same.sum())
        flips = [margin(row) for row in a[~same]]
        most["flip"] = max([most["flip"], *flips])
    count = len(one)
    return Agreement(
        count, most["difference"], sums["difference"] / count, most["relative"],
        sums["relative"] / count, most["kl"], sums["kl"] / count, sums["same"] / count,
        _share(sums["squares"], effect), math.sqrt(effect / one.numel()), most["flip"],
    )  # fmt: skip


def _share(difference: float, effect: float) -> float:
    """Of two sums of squares; an adapter without effect has nothing to lose."""
    if effect == 0.0:
        return 0.0
    return math.sqrt(difference / effect)


def _larger(known: float, found: torch.Tensor) -> float:
    """The largest; no number where there is one among them."""
    value = float(found.max())
    return value if math.isnan(value) or not known > value else known


def overall(parts: Sequence[Agreement]) -> Agreement:
    """All probes as one; each position counts the same."""
    count = sum(part.tokens for part in parts)

    def mean(name: str) -> float:
        return math.fsum(getattr(part, name) * part.tokens for part in parts) / count

    def squares(name: str) -> float:
        share = [part.lost if name == "lost" else 1.0 for part in parts]
        each = zip(parts, share, strict=True)
        return math.fsum(part.tokens * (part.effect * lost) ** 2 for part, lost in each)

    def most(name: str) -> float:
        values = [getattr(part, name) for part in parts]
        return math.nan if any(map(math.isnan, values)) else max(values)

    return Agreement(
        count, most("max_difference"), mean("mean_difference"), most("max_relative"),
        mean("mean_relative"), most("max_kl"), mean("mean_kl"), mean("agreement"),
        _share(squares("lost"), squares("effect")), math.sqrt(squares("effect") / count),
        most("widest_flip"),
    )  # fmt: skip
