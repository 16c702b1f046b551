"""Spaces: what a search may propose, tried at its ends before it starts.

In: a definition. Out: `Axis`es, and a `Probe` for each end of an interval and each choice: that
value with the first values of the others, compiled. Refused are an interval that its key cannot
have (LF721, `axes.py`) and a value outside the schema's bounds (LF720), each once. What a rule says
of a single combination is no fault of the space: the search is told, and goes elsewhere.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from llmforge.compiler.passes import Checked, check_draft
from llmforge.compose.sweeps import Dimension
from llmforge.compose.variants import Variants
from llmforge.diagnostics import Diagnostic
from llmforge.schema.docs import Numbers, field_numbers
from llmforge.schema.run import SCALARS, Scalars
from llmforge.schema.typed import section_spec
from llmforge.sweep.axes import LOWEST_SHARE, Axis, bare, interval, typed
from llmforge.sweep.definition import Definition
from llmforge.sweep.preflight import Point, look, overrides_of


@dataclass(frozen=True)
class Probe:
    """One end of an axis, compiled with the first values of the others."""

    axis: Axis
    value: str
    point: Point
    checked: Checked


@dataclass
class Surveyed:
    """A space that was tried."""

    axes: tuple[Axis, ...] = ()
    probes: list[Probe] = field(default_factory=list)
    diagnostics: list[Diagnostic] = field(default_factory=list)

    @property
    def size(self) -> float:
        """Points there are; infinite with an interval of real numbers."""
        return math.prod(axis.size for axis in self.axes)


def survey(definition: Definition) -> Surveyed:
    """Type the axes of a search and compile their ends."""
    tried = _Tried(definition)
    first = {one.key: _first(one) for one in definition.dimensions}
    base = tried.check(first)
    out = Surveyed()
    axes = []
    for one in definition.dimensions:
        axis, fault = typed(one, _numbers(base, bare(one.key)))
        if fault is not None:
            out.diagnostics.append(fault)
        elif axis is not None:
            axes.append(axis)
    if out.diagnostics:
        return out
    out.axes = tuple(axes)
    first = {axis.key: axis.ends()[0] for axis in axes}
    for axis in axes:
        for text in axis.ends():
            values = {**first, axis.key: text}
            checked = tried.check(values)
            out.probes.append(Probe(axis, text, look(definition, 0, values, checked), checked))
    for axis in axes:
        bad = [(probe.value, fault) for probe in out.probes if probe.axis is axis
               if (fault := _own_fault(probe, axis, axes, tried, first))]  # fmt: skip
        if bad:
            out.diagnostics.append(_outside(axis, bad, _numbers(tried.check(first), axis.name)))
    if not out.diagnostics:
        out.diagnostics += _everywhere(out.probes)
    return out


class _Tried:
    """Compiles combinations, each once."""

    def __init__(self, definition: Definition) -> None:
        self._definition = definition
        self._variants = Variants(definition.config_dirs)
        self._known: dict[tuple[str, ...], Checked] = {}

    def check(self, values: Mapping[str, str]) -> Checked:
        overrides = overrides_of(self._definition, dict(values))
        if overrides not in self._known:
            draft = self._variants.compose(overrides)
            self._known[overrides] = check_draft(draft, self._definition.config_dirs)
        return self._known[overrides]


def _first(one: Dimension) -> str:
    return one.values[0] if one.kind == "choice" else f"{one.low:.17g}"


def _own_fault(
    probe: Probe, axis: Axis, axes: Sequence[Axis], tried: _Tried, first: Mapping[str, str]
) -> Diagnostic | None:
    """What the schema has against a value, whatever the other keys are.

    A key may be there under one choice of another key only; so a value that is refused beside the
    first choices is tried beside the others, one at a time.
    """
    fault = _schema_fault(probe.checked, axis.name)
    if fault is None:
        return None
    for other in axes:
        for text in other.choices[1:] if other is not axis else ():
            values = {**first, other.key: text, axis.key: probe.value}
            if _schema_fault(tried.check(values), axis.name) is None:
                return None
    return fault


def _schema_fault(checked: Checked, key: str) -> Diagnostic | None:
    """What composing and parsing said about one key."""
    for found in checked.diagnostics:
        told = (found.key or "").lstrip("+~")
        if found.is_error and found.code.startswith("LF1") and told == key:
            return found
    return None


def _outside(
    axis: Axis, bad: Sequence[tuple[str, Diagnostic]], numbers: Numbers | None
) -> Diagnostic:
    first = bad[0][1]
    if first.code == "LF101":
        better = (first.hint or "").lstrip("'").partition("=")[0]
        return replace(first, hint=shlex.quote(f"{better}={axis.value()}") if better else None)
    told = axis.words() if axis.kind != "choice" else ""
    which = " and ".join(f"{text}" for text, _ in bad)
    if axis.kind == "choice":
        left = [text for text in axis.choices if text not in {value for value, _ in bad}]
        hint = shlex.quote(f"{axis.key}={','.join(left)}") if left else None
        message = f"`{axis.name}` cannot be {which}"
    else:
        clipped = _clipped(axis, numbers)
        hint = shlex.quote(f"{axis.key}={clipped}") if clipped else None
        message = f"the interval of `{axis.name}`, {told}, ends outside what it may be: {which}"
    return Diagnostic(
        "LF720",
        message,
        key=axis.name,
        origins=first.origins,
        notes=tuple(dict.fromkeys(fault.message for _, fault in bad)),
        hint=hint,
    )


def _clipped(axis: Axis, numbers: Numbers | None) -> str | None:
    """The part of an interval that the schema takes."""
    if numbers is None:
        return None
    low, high = axis.low, axis.high
    step: float = 1 if axis.kind == "int" else 0
    if numbers.high is not None and (
        high > numbers.high or (high == numbers.high and not numbers.high_included)
    ):
        least_share = abs(numbers.high) * LOWEST_SHARE
        high = min(high, numbers.high - (0 if numbers.high_included else step or least_share))
    if numbers.low is not None and (
        low < numbers.low or (low == numbers.low and not numbers.low_included)
    ):
        above = 0 if numbers.low_included else step or abs(high) * LOWEST_SHARE
        low = max(low, numbers.low + above)
    if not low < high or (low, high) == (axis.low, axis.high):
        return None
    return interval(low, high, axis.log)


def _everywhere(probes: Iterable[Probe]) -> list[Diagnostic]:
    """Errors that every probe has: no point of the space can work."""
    every = [[d for d in probe.checked.diagnostics if d.is_error] for probe in probes]
    if not every or not all(every):
        return []
    known = [{(d.code, d.key, d.message) for d in some} for some in every]
    common = set.intersection(*known)
    return [d for d in every[0] if (d.code, d.key, d.message) in common]


def _numbers(checked: Checked, key: str) -> Numbers | None:
    """What the schema takes at a key, given the kinds that are chosen; None if it does not say."""
    section, *path = key.split(".")
    if not path:
        return field_numbers(Scalars, [section]) if section in SCALARS else Numbers(frozenset())
    values = checked.draft.values.get(section)
    if section in ("callbacks", "metrics") and len(path) > 1 and isinstance(values, Mapping):
        section, values, path = f"{section}.{path[0]}", values.get(path[0]), path[1:]
    if not isinstance(values, Mapping):
        return None
    spec = section_spec(section, values)
    return field_numbers(spec, path) if spec else None
