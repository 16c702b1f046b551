"""The ground every section's schema stands on: `Spec`, effects, and shared value types.

In: nothing. Out: the frozen, extra-forbidding base class, the `Effect` a field has on a run, and
the few value types that several sections use (intervals, secret references, dtypes).

No defaults live here or in any section: every number stands in `conf/`, so that each value has a
file and a line. No torch, no Hydra.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


class Effect(StrEnum):
    """What changing a field changes; decides fingerprints and how `diff` classes a change."""

    DATA = "data"
    """The prepared samples: prepare, train and evaluate run again."""
    NUMERICS = "numerics"
    """The weights: train and evaluate run again."""
    EVALUATION = "evaluation"
    """The measured scores only: evaluate runs again."""
    FUSE = "fuse"
    """The fused model: fuse and quantize run again."""
    QUANTIZE = "quantize"
    """The quantized model: quantize runs again."""
    SPEED = "speed"
    """How fast or in how much memory, up to rounding: nothing runs again."""
    BOOKKEEPING = "bookkeeping"
    """Names, places, records: nothing runs again."""


class Spec(BaseModel):
    """One section of the configuration, typed and frozen.

    A field's effect is the class's `effect` unless the field is annotated with one of its own:
    `log_every: Annotated[Interval, Effect.BOOKKEEPING]`.
    """

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        strict=True,
        defer_build=True,
        allow_inf_nan=False,
    )

    effect: ClassVar[Effect] = Effect.NUMERICS
    by_name: ClassVar[tuple[str, ...]] = ()
    """Mappings in which each name has an effect of its own (`effect_within`)."""

    @classmethod
    def effect_of(cls, field: str) -> Effect:
        """The effect of changing `field`."""
        for item in cls.model_fields[field].metadata:
            if isinstance(item, Effect):
                return item
        return cls.effect

    @classmethod
    def effect_within(cls, field: str, name: str) -> Effect:  # noqa: ARG003 - for sections that say
        """The effect of one name of a mapping; the field's, unless a section says more."""
        return cls.effect_of(field)

    def settings(self) -> dict[str, Any]:
        """JSON-able values, as they stand in a plan."""
        return self.model_dump(mode="json")


Auto = Literal["auto"]
"""Solved by a derive pass from facts and hardware; the plan holds the solved value."""

Dtype = Literal["float32", "bfloat16", "float16"]

_SECRET = re.compile(r"env:[A-Za-z_][A-Za-z0-9_]*")
_SHARE = re.compile(r"(\d+(?:\.\d+)?)%")
_EPOCHS = re.compile(r"(\d+(?:\.\d+)?) epochs?")


def _check_secret(value: str) -> str:
    if not _SECRET.fullmatch(value):
        # The value itself must not be repeated in the message: it may be the secret.
        raise ValueError("secret given as a plain value")
    return value


SecretRef = Annotated[str, AfterValidator(_check_secret)]
"""`env:NAME`: the name of an environment variable, read in the worker and never written."""


def share_of(value: int | str | None) -> float | None:
    """`"5%"` as 0.05; None for anything that is not a share."""
    found = _SHARE.fullmatch(value) if isinstance(value, str) else None
    return float(found.group(1)) / 100 if found else None


def epochs_of(value: int | str | None) -> float | None:
    """`"0.5 epoch"` as 0.5 and `"epoch"` as 1; None for anything that is not told in epochs."""
    if value == "epoch":
        return 1.0
    found = _EPOCHS.fullmatch(value) if isinstance(value, str) else None
    return float(found.group(1)) if found else None


def _check_allowance(value: int | str | None) -> int | str | None:
    share = share_of(value)
    if value is None or (isinstance(value, int) and value >= 0):
        return value
    if share is not None and share <= 1:
        return value
    raise ValueError("expected a number from 0, a share such as `1%`, or null for no limit")


Allowance = Annotated[int | str | None, AfterValidator(_check_allowance)]
"""How much is let pass: a count, a share of all (`1%`), or null for any."""


def allowed(allowance: int | str | None, total: int) -> float:
    """The count that an allowance lets pass out of `total`."""
    if allowance is None:
        return math.inf
    share = share_of(allowance)
    return share * total if share is not None else int(allowance)


def _check_interval(value: int | str | None) -> int | str | None:
    if value is None or (isinstance(value, int) and value >= 1):
        return value
    share, epochs = share_of(value), epochs_of(value)
    if (share is not None and 0 < share <= 1) or (epochs is not None and epochs > 0):
        return value
    raise ValueError(
        "expected a number of optimizer steps from 1, a share of the run such as `10%`, `epoch` "
        "or a part of it such as `0.5 epoch`, or null for never"
    )


Interval = Annotated[int | str | None, AfterValidator(_check_interval)]
"""How often: optimizer steps (int), a share of the whole run (`10%`), `epoch` or so many of them
(`0.5 epoch`), null = never."""


_DURATION = re.compile(r"(\d+(?:\.\d+)?)(s|min|h)")
_SECONDS = {"s": 1, "min": 60, "h": 3600}


def seconds_of(value: int | str | None) -> float | None:
    """`"30min"` as 1800.0 seconds; None for anything that is not a duration."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    return float(found.group(1)) * _SECONDS[found.group(2)] if found else None


def _check_saves(value: int | str | None) -> int | str | None:
    if (seconds_of(value) or 0) > 0:
        return value
    try:
        return _check_interval(value)
    except ValueError:
        raise ValueError(
            "expected a number of optimizer steps from 1, a share of the run such as `10%`, "
            "`epoch` or a part of it such as `0.5 epoch`, a time such as `90s`, `30min` or `2h`, "
            "or null for never"
        ) from None


SaveInterval = Annotated[int | str | None, AfterValidator(_check_saves)]
"""How often: as `Interval`, or by the clock (`90s`, `30min`, `2h`)."""


def _check_warmup(value: int | str) -> int | str:
    share = share_of(value)
    if (isinstance(value, int) and value >= 0) or (share is not None and share <= 1):
        return value
    raise ValueError(
        "expected a number of optimizer steps from 0, or a share of the run such as `3%`"
    )


Warmup = Annotated[int | str, AfterValidator(_check_warmup)]
"""Optimizer steps (int), or a share of the whole run (`3%`)."""

PositiveInt = Annotated[int, Field(ge=1)]
NonNegativeInt = Annotated[int, Field(ge=0)]
NonNegativeFloat = Annotated[float, Field(ge=0.0)]
Fraction = Annotated[float, Field(ge=0.0, le=1.0)]


def spec_fields(cls: type[Spec]) -> Iterator[tuple[str, Effect]]:
    """Every field of a section with its effect."""
    for name in cls.model_fields:
        yield name, cls.effect_of(name)
