"""Run a recorded run once more, and say whether it came out the same: `llmforge train --run REF`.

In: the folder of a finished run (or what `track/fetch.py` got of one from MLflow). Out: a plan that
is the recorded one but for its folder, `<run folder>/again-<n>`; and `Comparison`, which tells for
every metric whether all its values are equal bit for bit, or how far apart they are. What measures
the machine (times, speeds, memory) is left out. A re-run leaves the first run as it is.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from llmforge.diagnostics import ConfigRefused, Diagnostic, Severity
from llmforge.origins import Origin
from llmforge.plan import Plan
from llmforge.run import journal
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status

FILE = "comparison.json"
"""In the folder of the re-run."""

_OF_THE_MACHINE = ("seconds", "_per_second", "_bytes", "attempts")
"""Ends of the names of what another machine, or another hour, measures differently."""


@dataclass(frozen=True)
class Compared:
    """One metric in both runs."""

    metric: str
    common: int
    """Steps at which both have it."""
    missing: int = 0
    """Steps at which only one has it."""
    equal: bool = True
    """Every common value is the same, bit for bit."""
    largest: float = 0.0
    """Largest distance of two values."""
    step: int | None = None
    """Where that is."""

    @property
    def told(self) -> str:
        """In words."""
        if not self.common:
            return "in one of the runs only"
        places = f"{self.common} step{'s' if self.common > 1 else ''}"
        lost = f"; {self.missing} steps in one of the runs only" if self.missing else ""
        if self.equal:
            return f"equal bit for bit at {places}{lost}"
        return f"differs by at most {self.largest:.3g}, at step {self.step} of {places}{lost}"


@dataclass(frozen=True)
class Comparison:
    """A run and its re-run."""

    before: Path
    after: Path
    fingerprint: str
    """Of the recorded plan, and so of both."""
    today: str | None
    """What the recorded overrides compile to now; None where they are refused."""
    metrics: tuple[Compared, ...] = field(default=())

    @property
    def same(self) -> bool:
        """Does every metric agree, at every step?"""
        return all(one.equal and not one.missing for one in self.metrics)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as `comparison.json` has it."""
        return {
            **asdict(self),
            "before": str(self.before),
            "after": str(self.after),
            "same": self.same,
            "metrics": {one.metric: asdict(one) for one in self.metrics},
        }

    def text(self) -> str:
        """For the terminal."""
        lines = [f"compared with {self.before}"]
        if self.today == self.fingerprint:
            said = "equal: the recorded overrides compile to it today"
        elif self.today is None:
            said = "cannot be compared: the recorded overrides are refused today"
        else:
            said = f"differs: the recorded overrides compile to {self.today[:10]} today"
        width = max([len("fingerprint"), *(len(one.metric) for one in self.metrics)])
        lines.append(f"  {'fingerprint':<{width}}  {said}")
        lines += [f"  {one.metric:<{width}}  {one.told}" for one in self.metrics]
        return "\n".join(lines)

    def findings(self) -> list[Diagnostic]:
        """LF744 when the two are not the same."""
        if self.same:
            return []
        apart = [one for one in self.metrics if not one.equal or one.missing]
        return [
            Diagnostic(
                "LF744",
                f"the re-run did not come out the same: {len(apart)} of {len(self.metrics)} "
                "metrics differ",
                severity=Severity.WARNING,
                notes=tuple(f"{one.metric}: {one.told}" for one in apart[:6]),
                hint="llmforge explain LF744",
            )
        ]


def fresh(plan: Plan, runs: Path) -> Plan:
    """The recorded plan, to be run below `runs` instead; its fingerprint is the same."""
    settings = copy.deepcopy(plan.settings)
    settings["paths"]["runs"] = str(runs)
    origins = plan.origins.copy()
    reason = "a re-run leaves the first run as it is"
    origins.add("paths.runs", Origin("derived", "train --run", str(runs), reason=reason))
    return replace(plan, settings=settings, origins=origins)


def next_folder(run: RunFolder) -> Path:
    """`<run folder>/again-<n>`: the first that holds no finished re-run."""
    number = 1
    while True:
        place = run.path / f"again-{number}"
        there = RunFolder(place / run.plan().run_id)
        if not there.plan_file.is_file() or there.status() is not Status.FINISHED:
            return place
        number += 1


def compare(before: RunFolder, after: RunFolder, config_dirs: Sequence[str] = ()) -> Comparison:
    """Compare two runs of one plan; `comparison.json` in the second says what came of it."""
    plan = after.plan()
    found = Comparison(
        before.path,
        after.path,
        plan.fingerprint,
        _today(plan, config_dirs),
        tuple(metrics(journal.history(before.journal), journal.history(after.journal))),
    )
    after.write_json(FILE, found.to_dict())
    return found


def metrics(
    before: Mapping[str, Mapping[int, float]], after: Mapping[str, Mapping[int, float]]
) -> list[Compared]:
    """Every metric that says something of the model."""
    names = [
        name
        for name in dict.fromkeys([*before, *after])
        if not name.endswith(_OF_THE_MACHINE) and not name.startswith("evaluations/")
    ]
    return [_compared(name, before.get(name, {}), after.get(name, {})) for name in names]


def _compared(name: str, before: Mapping[int, float], after: Mapping[int, float]) -> Compared:
    common = sorted(before.keys() & after.keys())
    missing = len(before.keys() ^ after.keys())
    apart = {step: _distance(before[step], after[step]) for step in common}
    worst = max(apart, key=lambda step: apart[step], default=None)
    largest = apart[worst] if worst is not None else 0.0
    equal = bool(common) and largest == 0.0
    return Compared(name, len(common), missing, equal, largest, None if equal else worst)


def _distance(one: float, other: float) -> float:
    if one == other or (math.isnan(one) and math.isnan(other)):
        return 0.0
    found = abs(one - other)
    return math.inf if math.isnan(found) else found


def _today(plan: Plan, config_dirs: Sequence[str]) -> str | None:
    """Fingerprint of what the plan's overrides compile to now."""
    from llmforge.compiler.passes import compile_plan

    try:
        return compile_plan(plan.overrides, config_dirs).fingerprint
    except ConfigRefused:
        return None
