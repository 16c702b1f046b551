"""Schema of sweeps: what is varied, what is sought, and when to stop.

In: nothing. Out: spec classes for `sweep`. A sweep is about runs and no part of any: nothing here
enters a plan or a fingerprint, so a point of a sweep and the same run by itself are one run.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import (
    Auto,
    Effect,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Spec,
)

APART = ("sweep",)
"""Sections of the configuration that are about runs, and part of none."""


class PruningSpec(Spec):
    """When a weak trial is ended. Everything is counted in evaluations during training, so trials
    with other batch sizes are compared at the same share of their runs."""

    effect = Effect.BOOKKEEPING

    startup: NonNegativeInt
    """Trials that go to their end before any is pruned (`median`)."""
    warmup: NonNegativeInt
    """First evaluations of each trial that end none (`median`)."""
    interval: PositiveInt
    """A trial is judged at every so many-th evaluation (`median`)."""
    resource: PositiveInt
    """Evaluations that every trial gets before it is judged first (`halving`, `hyperband`)."""
    reduction: Annotated[int, Field(ge=2)]
    """One in so many trials goes on from rung to rung (`halving`, `hyperband`)."""
    patience: PositiveInt
    """A trial ends after so many evaluations in a row that are worse than its best (`patience`)."""
    tolerance: NonNegativeFloat
    """By how much, in the objective's unit, they have to be worse (`patience`)."""


class SpeedSpec(Spec):
    """What hours are foretold by before any run has been measured."""

    effect = Effect.BOOKKEEPING

    peak_tflops: dict[str, Annotated[float, Field(gt=0.0)]]
    """Name of a device, as its driver tells it -> dense bfloat16 arithmetic of its data sheet, in
    10^12 operations a second. A device that is not named, or null, has no estimate."""
    utilisation: Annotated[float, Field(gt=0.0, le=1.0)]
    """Share of the peak that training reaches."""


class SweepSpec(Spec):
    """What every sweep has."""

    effect = Effect.BOOKKEEPING

    kind: str
    name: str | Auto = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")
    """Folder of the sweep below `sweep.folder`, and its parent run in MLflow. `auto` is the
    name of the sweep's file, or of the run where no file says what varies, with a digest of what is
    fixed, varied and sought: the same command means the same sweep."""
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
    objectives: dict[str, Literal["minimize", "maximize"] | Auto]
    """Several figures that are sought at once, each with its direction, in place of `objective`:
    `{eval_loss: minimize, tokens_per_second: maximize}`. The result is the set of trials that no
    other one beats in all of them (the Pareto front)."""
    pruner: Literal["none", "median", "halving", "hyperband", "patience"]
    """What ends weak trials while they run: worse than the `median` of the earlier ones at the
    same evaluation, successive `halving` (Li et al. 2018, arXiv 1810.05934), `hyperband` (Li et
    al. 2016, arXiv 1603.06560), or no improvement for some evaluations (`patience`)."""
    pruning: PruningSpec
    """The pruner's numbers."""
    storage: str | Auto = Field(pattern=r"^(auto|env:[A-Za-z_][A-Za-z0-9_]*|[a-z0-9+]+://.*)$")
    """Where Optuna keeps the study of a search or a pruned sweep: `auto` is `study.journal` in the
    sweep's folder; an SQL database by its URL (`sqlite:///study.db`), one with a password by the
    name of the environment variable that holds it (`env:STUDY_URL`)."""
    refused: Literal["skip", "stop"]
    """What becomes of the sweep when the compiler refuses a point."""
    equal_failures: PositiveInt
    """That many trials in a row that fail for the same reason stop the sweep."""
    speed: SpeedSpec
    """Speeds of devices, for the hours in the table."""
    at_once: PositiveInt | Auto
    """Trials handed to the launcher at a time; `auto` is what the launcher runs side by side."""
    resident: Literal["on", "off"] | Auto
    """Run trials one after another in a resident worker, which keeps its imports and the frozen
    base and swaps the adapter: a trial then starts in a moment, with the same numbers. `auto` does
    so for the trials where it is safe (an adapter over a base that it leaves as it is, one process,
    no code of your own) under Hydra's basic launcher; `on` refuses a sweep in which it is not."""


@register("sweep", "grid")
class GridSweep(SweepSpec):
    """Every combination."""

    kind: Literal["grid"]


@register("sweep", "search")
class SearchSweep(SweepSpec):
    """Points proposed by one of Optuna's samplers."""

    kind: Literal["search"]
    trials: PositiveInt
    """Trials that count: failed and pruned ones do, points that the compiler refuses do not."""
    sampler: Literal["tpe", "gp", "cmaes", "random", "grid", "nsga2"]
    """How points are proposed: tree-structured Parzen estimator (Bergstra et al. 2011), Gaussian
    process, CMA-ES (intervals only; choices are drawn at random), at random, all of a `grid` in
    random order, or NSGA-II for several objectives (Deb et al. 2002)."""
    startup: NonNegativeInt
    """Random points before the sampler learns from what came out (`tpe`, `gp`, `cmaes`)."""
    population: Annotated[int, Field(ge=2)]
    """Trials of one generation (`nsga2`)."""
    grid_points: Annotated[int, Field(ge=2)]
    """Points that an interval stands for, both ends included (`grid`)."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    """Seed of the sampler. A proposal follows from it and the trials before, so a search that was
    killed goes on as if it had not been."""
    refused_in_row: PositiveInt
    """That many proposals in a row that the compiler refuses stop the search."""
