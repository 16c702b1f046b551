"""Axes: from values to places on a page, and the round numbers that are written beside them.

In: numbers, or the texts of choices. Out: `Linear`, `Logarithmic`, `Choices`, each with `place`
(a value's share of the axis, 0 to 1) and `ticks`. Knows nothing of SVG.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

DECADES = 20.0
"""From this ratio of largest to smallest on, positive settings are laid out by their logarithm."""


class Scale(Protocol):
    """One axis."""

    def place(self, value: Any) -> float | None:
        """Share of the axis, 0 at its beginning and 1 at its end; None for what is not on it."""

    def ticks(self) -> list[tuple[float, str]]:
        """Places with the text that is written there."""


@dataclass(frozen=True)
class Linear:
    """Even steps."""

    low: float
    high: float
    wanted: int = 7

    @classmethod
    def over(cls, values: Iterable[float], wanted: int = 7) -> Linear:
        """An axis that holds all of these, with a little room."""
        known = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        low, high = min(known), max(known)
        if low == high:  # one value: the axis begins at zero
            low, high = min(0.0, low), max(0.0, high) or (0.0 if low else 1.0)
        room = 0.04 * (high - low)
        return cls(low - room, high + room, wanted)

    def place(self, value: Any) -> float | None:
        """See `Scale`."""
        number = number_of(value)
        return None if number is None else (number - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """See `Scale`: multiples of 1, 2 or 5 times a power of ten."""
        raw = (self.high - self.low) / self.wanted
        power = 10.0 ** math.floor(math.log10(raw))
        step = next(power * unit for unit in (1, 2, 5, 10) if power * unit >= raw)
        first = math.ceil(self.low / step)
        last = math.floor(self.high / step)
        decimals = max(0, -math.floor(math.log10(step)))
        values = [step * count for count in range(first, last + 1)]
        return [
            ((v - self.low) / (self.high - self.low), _label(v, min(decimals, 6))) for v in values
        ]


@dataclass(frozen=True)
class Logarithmic:
    """Even factors."""

    low: float
    high: float

    @classmethod
    def over(cls, values: Iterable[float]) -> Logarithmic:
        """An axis that holds all of these; all are above zero."""
        known = list(values)
        return cls(min(known), max(known))

    def place(self, value: Any) -> float | None:
        """See `Scale`."""
        number = number_of(value)
        if number is None or number <= 0:
            return None
        return math.log(number / self.low) / math.log(self.high / self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """See `Scale`: powers of ten, and the ends when there are fewer than two of them."""
        first = math.ceil(math.log10(self.low) - 1e-9)
        last = math.floor(math.log10(self.high) + 1e-9)
        values = [10.0**power for power in range(first, last + 1)]
        if len(values) < 2:
            values = [self.low, self.high]
        return [(self.place(value) or 0.0, f"{value:.3g}") for value in values]


@dataclass(frozen=True)
class Choices:
    """One place for each text, in their order."""

    texts: tuple[str, ...]

    def place(self, value: Any) -> float | None:
        """See `Scale`."""
        if value not in self.texts:
            return None
        return (self.texts.index(value) + 0.5) / len(self.texts)

    def ticks(self) -> list[tuple[float, str]]:
        """See `Scale`."""
        return [(self.place(text) or 0.0, text) for text in self.texts]


def scale_of(texts: Sequence[str]) -> Scale:
    """The axis that suits the values of a setting: numbers as numbers, all else as choices.

    A handful of numbers is drawn as choices, too: what lies between them was not tried.
    """
    different = tuple(dict.fromkeys(texts))
    numbers = [number_of(text) for text in different]
    known = [number for number in numbers if number is not None]
    if len(known) < len(different):
        return Choices(different)
    if len(known) <= 8:
        return Choices(tuple(sorted(different, key=lambda text: number_of(text) or 0.0)))
    if min(known) > 0 and max(known) / min(known) >= DECADES:
        return Logarithmic.over(known)
    return Linear.over(known)


def number_of(value: Any) -> float | None:
    """The finite number that a value or its text is; None for everything else."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _label(value: float, decimals: int) -> str:
    if value and abs(value) < 1e-4:
        return f"{value:.1e}"
    return f"{value:,.{decimals}f}"
