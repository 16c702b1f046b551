"""What a sweep varies: overrides with several values, read before any point is composed.

In: overrides as they were typed, the `space` of a sweep. Out: `Space`: what is fixed, and one
`Dimension` for each key that varies, with a diagnostic for each text that cannot be read (LF112),
that is no sweep (LF710), whose key is there twice (LF711), or that has no end (LF712).

Whether a key exists and a value is allowed is found when the points are compiled.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Literal

from hydra.core.object_type import ObjectType
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep
from hydra.core.override_parser.types import Override as HydraOverride

from llmforge.compose.grammar import unreadable
from llmforge.compose.library import Library
from llmforge.diagnostics import Diagnostic
from llmforge.origins import Origin

MOST_POINTS = 100_000
"""Of a grid: a thousand of them take seconds to compile, so these take a quarter of an hour."""


@dataclass(frozen=True)
class Dimension:
    """One key that varies."""

    key: str
    """As it is written before `=`: `lora`, `optimizer.lr`, `+trainer.extra.x`."""
    text: str
    """The whole override."""
    kind: Literal["choice", "interval"]
    values: tuple[str, ...] = ()
    """Texts of a choice, in order, each as it is written behind `=`."""
    low: float | int = 0
    high: float | int = 0
    """Bounds of an interval, both included."""
    tags: frozenset[str] = frozenset()
    """`log` makes an interval even in its logarithm."""

    @property
    def is_whole(self) -> bool:
        """An interval of whole numbers."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def override(self, value: str) -> str:
        """The override that sets one value."""
        return f"{self.key}={value}"


@dataclass
class Space:
    """What is fixed and what varies."""

    fixed: list[str] = field(default_factory=list)
    dimensions: list[Dimension] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)


class _Options:
    """What Hydra's grammar asks of a config loader: the options that a glob matches."""

    def __init__(self, library: Library) -> None:
        self._library = library

    def get_group_options(
        self, group_name: str, results_filter: ObjectType | None = ObjectType.CONFIG
    ) -> list[str]:
        """Options of a group; `results_filter` is Hydra's and always asks for these."""
        del results_filter
        return self._library.option_names(group_name)


def read_space(overrides: Sequence[str], space: Mapping[str, Any], library: Library) -> Space:
    """Sort what is fixed from what varies; what the command line says of a key replaces the file's
    space of it."""
    parser = OverridesParser.create(config_loader=_Options(library))  # type: ignore[arg-type]
    out = Space()
    typed: dict[str, Dimension] = {}
    set_by_hand: set[str] = set()
    for text in overrides:
        raw = _parsed(text, parser, out)
        if raw is None:
            continue
        if not raw.is_sweep_override():
            out.fixed.append(text)
            set_by_hand.add(raw.get_key_element())
            continue
        found = _dimension(text, raw, out)
        if found is not None and found.key in typed:
            out.diagnostics.append(_twice(typed[found.key], found))
        elif found is not None:
            typed[found.key] = found
    planned: dict[str, Dimension] = {}
    for key, value in space.items():
        text = f"{key}={_text(value)}"
        raw = _parsed(text, parser, out)
        if raw is None or key in typed or key in set_by_hand:
            continue
        if not raw.is_sweep_override():
            out.fixed.insert(0, text)  # what is typed comes later, and wins
            continue
        found = _dimension(text, raw, out)
        if found is not None:
            planned[found.key] = found
    out.dimensions = [*planned.values(), *typed.values()]
    return out


def value_of(override: str) -> Any:
    """The value of one override, as Hydra's grammar reads it."""
    return OverridesParser.create().parse_override(override).value()


def is_varied(override: str) -> bool:
    """Has an override several values? One that cannot be read is told elsewhere."""
    try:
        return bool(OverridesParser.create().parse_override(override).is_sweep_override())
    except Exception:  # Hydra's grammar, ANTLR and casts raise anything
        return False


def _parsed(text: str, parser: OverridesParser, out: Space) -> HydraOverride | None:
    try:
        return parser.parse_overrides([text])[0]  # unlike `parse_override`, it knows the options
    except Exception as error:  # Hydra's grammar, ANTLR and casts raise anything
        out.diagnostics.append(unreadable(text, error, parser))
        return None


def _dimension(text: str, raw: HydraOverride, out: Space) -> Dimension | None:
    key = raw.get_key_element()
    value = raw.value()
    if isinstance(value, IntervalSweep):
        low, high = value.start, value.end
        if low is None or high is None or not low < high:
            out.diagnostics.append(
                Diagnostic(
                    "LF710",
                    f"interval of `{key}` is empty: {low} to {high}",
                    key=raw.key_or_group,
                    origins=(Origin("override", text),),
                )
            )
            return None
        return Dimension(key, text, "interval", (), low, high, frozenset(value.tags))
    values = tuple(str(one) for one in islice(raw.sweep_string_iterator(), MOST_POINTS + 1))
    if len(values) > MOST_POINTS:
        out.diagnostics.append(too_many(key, text))
        return None
    if not values:
        out.diagnostics.append(
            Diagnostic(
                "LF710",
                f"`{text}` names nothing to vary `{key}` over",
                key=raw.key_or_group,
                origins=(Origin("override", text),),
                notes=("a glob matches names of options, an empty range has no members",),
            )
        )
        return None
    return Dimension(key, text, "choice", values, tags=frozenset(getattr(value, "tags", ())))


def too_many(key: str, text: str | None = None) -> Diagnostic:
    """LF712: a grid that would never be through.

    Args:
        text: the override whose values alone are too many.
    """
    return Diagnostic(
        "LF712",
        f"the grid has more than {MOST_POINTS:,} points, and all of them would be tried",
        key=key.lstrip("+~"),
        origins=(Origin("override", text),) if text else (),
        notes=("a search proposes points out of intervals and choices",),
        hint="sweep=search",
    )


def _twice(first: Dimension, second: Dimension) -> Diagnostic:
    return Diagnostic(
        "LF711",
        f"`{first.key}` is varied twice: `{first.text}` and `{second.text}`",
        key=first.key.lstrip("+~"),
        origins=(Origin("override", second.text),),
        hint=shlex.quote(f"{first.key}={','.join(dict.fromkeys((*first.values, *second.values)))}"),
    )


def _text(value: Any) -> str:
    """A value of a YAML file as the override grammar writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
