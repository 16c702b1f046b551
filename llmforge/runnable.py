"""What Python users hold: a plan that can be run.

In: what `llmforge.compile` was asked, or a saved `plan.json`. Out: a `RunnablePlan`, which is the
plan and a way to start its workers. The plan itself (`plan.py`) is data, and knows neither the
compiler that makes it nor the runner that carries it out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Self

from llmforge.plan import Plan

if TYPE_CHECKING:
    from llmforge.run.launch import Outcome


@dataclass(frozen=True, eq=False)
class RunnablePlan(Plan):
    """A compiled plan, or a saved one (`RunnablePlan.load`), and how to run it."""

    config_dirs: tuple[str, ...] | None = field(default=None, compare=False)
    """Option folders it was compiled with just now; None for one that was read from a file. They
    are no part of the plan and are not saved."""

    @classmethod
    def compiled(
        cls, overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = ()
    ) -> Self:
        """Compose, check, derive, lower, freeze.

        Raises:
            ConfigRefused: with every finding, errors and warnings.
        """
        from llmforge.compiler.passes import compile_plan

        plan = compile_plan(overrides, config_dirs)
        parts = {one.name: getattr(plan, one.name) for one in fields(plan)}
        return cls(**parts, config_dirs=tuple(str(folder) for folder in config_dirs))

    def __eq__(self, other: object) -> bool:
        """Are the two the same plan? How they came to be here does not count."""
        if not isinstance(other, Plan):
            return NotImplemented
        return self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # it holds dicts, as every plan does

    def run(self, quiet: bool = False) -> Outcome:
        """Train in a worker process and wait for it.

        Returns:
            What came of it: status, exit code, folder, result. A failed run is an outcome with a
            diagnostic, not an exception.

        Raises:
            ConfigRefused: this machine does not have the plan's hardware (LF408), or the plan was
                saved before its data were prepared (LF513).
        """
        from llmforge.compiler.passes import compile_plan
        from llmforge.run.ready import run_ready

        dirs = self.config_dirs
        again = None if dirs is None else lambda: compile_plan(self.overrides, dirs)
        return run_ready(self, again, quiet=quiet)
