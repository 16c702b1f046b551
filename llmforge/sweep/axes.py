"""One key of a space: what may be proposed for it, typed by what the schema says of the key.

In: a dimension of the sweep, the numbers that its key takes. Out: an `Axis`, or why its interval is
none of that key (LF721). Whether its ends are allowed is tried elsewhere (`spaces.py`).
"""

from __future__ import annotations

import math
import shlex
from dataclasses import dataclass
from typing import Any, Literal

from llmforge.compose.sweeps import Dimension
from llmforge.diagnostics import Diagnostic
from llmforge.origins import Origin
from llmforge.schema.docs import Numbers

WHOLE = 1e15
"""Below it every whole number is a floating-point number."""

LOWEST_SHARE = 1e-3
"""Of an interval's upper end: the lower end that is proposed where zero is not allowed."""


@dataclass(frozen=True)
class Axis:
    """One key of a space."""

    key: str
    kind: Literal["choice", "float", "int"]
    choices: tuple[str, ...] = ()
    """Texts, each as it is written behind `=`."""
    low: float = 0.0
    high: float = 0.0
    """Ends of an interval, both included."""
    log: bool = False
    """Even in the logarithm."""

    @property
    def name(self) -> str:
        """The key without Hydra's `+`."""
        return bare(self.key)

    @property
    def size(self) -> float:
        """How many values there are."""
        if self.kind == "choice":
            return len(self.choices)
        return self.high - self.low + 1 if self.kind == "int" else math.inf

    def ends(self) -> tuple[str, ...]:
        """Texts of what stands at the ends: both of an interval, every choice."""
        return self.choices or (self.text(self.low), self.text(self.high))

    def text(self, value: Any) -> str:
        """A value as an override has it."""
        if self.kind == "choice":
            return str(value)
        return str(int(value)) if self.kind == "int" else repr(float(value))

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as the study keeps it."""
        if self.kind == "choice":
            return {"key": self.key, "choices": list(self.choices)}
        ends = {"low": self.low, "high": self.high}
        return {"key": self.key, "kind": self.kind, **ends, "log": self.log}

    def value(self) -> str:
        """What stands behind `=` in the sweep."""
        return ",".join(self.choices) or interval(self.low, self.high, self.log)

    def words(self) -> str:
        """For people: `1e-05 to 0.001, logarithmic`."""
        if self.kind == "choice":
            return ", ".join(self.choices)
        low, high = (f"{end:.6g}" for end in (self.low, self.high))
        return f"{low} to {high}{', whole' * (self.kind == 'int')}{', logarithmic' * self.log}"


def bare(key: str) -> str:
    """A key without Hydra's `+` and `++`, and without its package."""
    return key.lstrip("+~").partition("@")[0]


def typed(one: Dimension, numbers: Numbers | None) -> tuple[Axis | None, Diagnostic | None]:
    """An axis whose type fits its key, or LF721."""
    if one.kind == "choice":
        return Axis(one.key, "choice", tuple(dict.fromkeys(one.values))), None
    log = "log" in one.tags
    # Hydra reads the ends of `interval(1,9)` as real numbers; `int(...)` around it makes them whole
    whole = one.is_whole
    if numbers is not None:
        if not numbers.types:
            return None, _unfit(one, f"`{bare(one.key)}` is no number", "name the choices instead")
        if numbers.types == {int}:
            whole = True
            if not (float(one.low).is_integer() and float(one.high).is_integer()):
                ends = interval(math.ceil(one.low), math.floor(one.high), log)
                hint = shlex.quote(f"{one.key}={ends}")
                message = f"`{bare(one.key)}` is a whole number, and its interval is not"
                return None, _unfit(one, message, hint=hint)
    if log and one.low <= 0:
        low = 1 if whole else one.high * LOWEST_SHARE
        ends = interval(low, one.high, log)
        better = shlex.quote(f"{one.key}={ends}") if one.high > low else None
        message = f"a logarithmic interval of `{bare(one.key)}` starts at {one.low:g}"
        return None, _unfit(one, message, "the logarithm is of numbers above zero", better)
    return Axis(one.key, "int" if whole else "float", (), one.low, one.high, log), None


def _unfit(one: Dimension, message: str, note: str = "", hint: str | None = None) -> Diagnostic:
    return Diagnostic(
        "LF721",
        message,
        key=bare(one.key),
        origins=(Origin("override", one.text),),
        notes=(note,) if note else (),
        hint=hint,
    )


def interval(low: float, high: float, log: bool) -> str:
    """An interval as an override has it."""
    inner = f"interval({_number(low)},{_number(high)})"
    return f"tag(log,{inner})" if log else inner


def _number(value: float) -> str:
    """Whole ones to the last digit, since a bound that is rounded lies outside."""
    whole = abs(value) < WHOLE and float(value).is_integer()
    return str(int(value)) if whole else f"{value:.12g}"
