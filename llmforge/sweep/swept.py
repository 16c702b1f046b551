"""A sweep after its last trial: what came of every point, the best, the exit code.

In: a definition, points, trials by run id. Out: `Swept`. Decides nothing and touches no file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from llmforge.diagnostics import Diagnostic
from llmforge.sweep.definition import Definition
from llmforge.sweep.preflight import Point
from llmforge.sweep.trial import Trial


@dataclass
class Swept:
    """A sweep after its last trial."""

    definition: Definition
    points: list[Point]
    trials: dict[str, Trial] = field(default_factory=dict)
    """Run id -> what came of it."""
    stopped: Diagnostic | None = None
    """Why trials were left out."""
    warnings: list[Diagnostic] = field(default_factory=list)
    """What did not stop the sweep."""
    interrupted: bool = False
    """Somebody asked it, or one of its trials, to stop."""

    @property
    def best(self) -> Trial | None:
        """The finished trial with the best objective; of equal ones the first."""
        finished = [
            trial
            for point in self.points
            if point.run_id and (trial := self.trials.get(point.run_id)) is not None
            if trial.is_finished and self.definition.objective in trial.figures
        ]
        choose = min if self.definition.direction == "minimize" else max
        return choose(
            finished, key=lambda trial: trial.figures[self.definition.objective], default=None
        )

    @property
    def front(self) -> list[Trial]:
        """Finished trials that no other one beats in all objectives (the Pareto front)."""
        sought = self.definition.objectives
        placed: dict[str, tuple[Trial, list[float]]] = {}
        for trial in self.trials.values():
            values = [trial.figures.get(one.name) for one in sought]
            if trial.is_finished and all(value is not None for value in values):
                signed = [o.sign * float(v or 0) for o, v in zip(sought, values, strict=True)]
                placed[trial.run_id] = trial, signed
        return [
            trial
            for trial, mine in placed.values()
            if not any(_beats(other, mine) for _, other in placed.values())
        ]

    @property
    def exit_code(self) -> int:
        """0 when every point that can work has a result or was pruned, 2 when the sweep was stopped
        before any was run, 130 when it was interrupted, 1 otherwise."""
        if self.interrupted:
            return 130
        if self.stopped is not None:
            return 1 if self.trials else 2
        wanted = {p.run_id for p in self.points if p.run_id}
        done = {run for run, trial in self.trials.items() if trial.is_over}
        return 0 if wanted <= done else 1


def _beats(one: Sequence[float], other: Sequence[float]) -> bool:
    """As good in all figures and better in one; the smaller is the better."""
    pairs = list(zip(one, other, strict=True))
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)
