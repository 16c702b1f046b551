"""Schema of sweeps: what is varied, what is sought, and when to stop.

In: nothing. Out: spec classes for `sweep`. A sweep is about runs and no part of any: nothing here
enters a plan or a fingerprint, so a point of a sweep and the same run by itself are one run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Auto, Effect, PositiveInt, Spec


APART = ("sweep",)
"""Sections of the configuration that are about runs, and part of none."""


class SweepSpec(Spec):
    """What every sweep has."""

    effect = Effect.BOOKKEEPING

    kind: str
    name: str | Auto = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Folder of the sweep below `sweep.folder`, and its parent run in MLflow. `auto` is the run's
    name with a digest of what is varied: the same command means the same sweep."""
    folder: str
    """Parent of the sweeps' folders; a trial lies in `<folder>/<sweep>/<run id>`."""
    space: dict[str, str | int | float | bool | None]
    """Key -> what it may be, in Hydra's sweep grammar: `1e-5,1e-4`, `range(1,5)`, `glob(8bit_*)`,
    `interval(1e-5,1e-3)`, `tag(log, interval(1e-5,1e-3))`. Sweeps on the command line are added."""
    objective: str | Auto
    """Figure of a run's result that is sought: `eval_loss`, `exact_match`, ...; `auto` takes
    `checkpoint.best` where it is set, else `eval_loss`."""
    direction: Literal["minimize", "maximize"] | Auto
    """Which objective is better; `auto` where the objective's own direction is known."""
    refused: Literal["skip", "stop"]
    """What becomes of the sweep when the compiler refuses a point."""
    equal_failures: PositiveInt
    """That many trials in a row that fail for the same reason stop the sweep."""
    at_once: PositiveInt | Auto
    """Trials handed to the launcher at a time; `auto` is what the launcher runs side by side."""


@register("sweep", "grid")
class GridSweep(SweepSpec):
    """Every combination."""

    kind: Literal["grid"]


@register("sweep", "search")
class SearchSweep(SweepSpec):
    """Points proposed by one of Optuna's samplers."""

    kind: Literal["search"]
    trials: PositiveInt
    """Trials that count: pruned ones do, refused points do not."""
    sampler: Literal["tpe", "gp", "cmaes", "random", "grid", "nsga2"]
    """How points are proposed."""
    startup: Annotated[int, Field(ge=0)]
    """Random points before the sampler learns from what came out."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    """Seed of the sampler."""
