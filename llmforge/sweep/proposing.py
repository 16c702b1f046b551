"""Proposing: one of Optuna's samplers asked for the next point of a study.

In: a study, axes, the sampler's settings. Out: a new trial in the study. The sampler is made anew
for each question and seeded by the number of the trial: a proposal follows from the seed and the
trials before it, so that a search which was killed goes on as if it had not been.

The Gaussian process needs torch, and the driver of a sweep never imports it: that sampler is asked
in a process of its own (`python -m llmforge.sweep.proposing`, the question on its input).
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge.run.pruning import open_storage, pruner_of, quieten
from llmforge.sweep.axes import Axis

APART = ("gp",)
"""Samplers that need what the driver must not import."""


class NotProposed(RuntimeError):
    """The sampler's process ended without a trial."""


def propose(question: Mapping[str, Any]) -> int:
    """Number of a new trial; its parameters stand in the study.

    Args:
        question: `storage` and the `base` of a relative one, `study`, `axes` (`Axis.to_dict`),
            `pruner`, `sampler` and its numbers, `at_once`.

    Raises:
        NotProposed: the sampler's process failed.
        Exception: what the storage raises.
    """
    if question["sampler"] in APART:
        return _apart(question)
    return _ask(question)


def distribution(axis: Axis) -> Any:
    """Optuna's distribution of an axis."""
    from optuna import distributions

    if axis.kind == "choice":
        return distributions.CategoricalDistribution(list(axis.choices))
    if axis.kind == "int":
        return distributions.IntDistribution(int(axis.low), int(axis.high), log=axis.log)
    return distributions.FloatDistribution(axis.low, axis.high, log=axis.log)


def grid_of(axis: Axis, points: int) -> list[Any]:
    """Values of an axis that a grid goes through: choices, or evenly spaced ones with both ends."""
    if axis.kind == "choice":
        return list(axis.choices)
    low, high = (math.log(axis.low), math.log(axis.high)) if axis.log else (axis.low, axis.high)
    spread = [low + (high - low) * index / (points - 1) for index in range(points)]
    if axis.log:
        spread = [math.exp(value) for value in spread]
    # rounding must not lead outside
    inside = [min(max(value, axis.low), axis.high) for value in spread]
    inside[0], inside[-1] = axis.low, axis.high
    return list(dict.fromkeys(round(v) for v in inside)) if axis.kind == "int" else inside


def axis_from(values: Mapping[str, Any]) -> Axis:
    """An axis from its JSON form."""
    if "choices" in values:
        return Axis(values["key"], "choice", tuple(values["choices"]))
    return Axis(values["key"], values["kind"], (), values["low"], values["high"], values["log"])


def _ask(question: Mapping[str, Any]) -> int:
    quieten()
    import optuna

    storage = question.get("opened") or open_storage(question["storage"], Path(question["base"]))
    axes = [axis_from(values) for values in question["axes"]]
    study = optuna.load_study(
        study_name=question["study"],
        storage=storage,
        sampler=optuna.samplers.RandomSampler(),
        pruner=pruner_of(question["pruner"]),
    )
    study.sampler = _sampler(question, axes, len(study.get_trials(deepcopy=False)))
    return int(study.ask({axis.key: distribution(axis) for axis in axes}).number)


def _sampler(question: Mapping[str, Any], axes: Sequence[Axis], asked: int) -> Any:
    """The sampler for trial number `asked`."""
    from optuna import samplers

    kind, startup = question["sampler"], int(question["startup"])
    seed = (int(question["seed"]) + asked) % 2**32
    if kind == "random":
        return samplers.RandomSampler(seed=seed)
    if kind == "grid":
        # always shuffled alike: the study keeps which place of it was visited
        values = {axis.key: grid_of(axis, int(question["grid_points"])) for axis in axes}
        return samplers.GridSampler(values, seed=int(question["seed"]))
    if kind == "nsga2":
        return samplers.NSGAIISampler(population_size=int(question["population"]), seed=seed)
    if kind == "cmaes":
        return _cmaes(startup, seed)
    if kind == "gp":
        return samplers.GPSampler(n_startup_trials=startup, seed=seed)
    # trials that run side by side are taken for bad ones, so that the next is another
    together = int(question["at_once"]) > 1
    return samplers.TPESampler(n_startup_trials=startup, seed=seed, constant_liar=together)


def _cmaes(startup: int, seed: int) -> Any:
    """CMA-ES whose state is worked out from the trials.

    Optuna's sampler keeps its state pickled in the study, which may be a database that others
    write to; nothing is unpickled here, so the generations are told again from the first on.
    """
    from optuna import samplers
    from optuna.study import StudyDirection

    class Replayed(samplers.CmaEsSampler):
        def _restore_optimizer(self, completed_trials: Any) -> None:
            self._completed = completed_trials

        def _split_optimizer_str(self, optimizer_str: str) -> dict[str, str]:
            del optimizer_str
            return {}

        def _init_optimizer(self, trans: Any, direction: Any) -> Any:
            optimizer = super()._init_optimizer(trans, direction)
            sign = 1 if direction == StudyDirection.MINIMIZE else -1
            while True:
                told = self._get_solution_trials(self._completed, optimizer.generation)
                told = told[: optimizer.population_size]
                if len(told) < optimizer.population_size:
                    return optimizer
                values = [sign * float(t.value or 0.0) for t in told]  # complete ones have one
                points = [trans.transform(trial.params) for trial in told]
                optimizer.tell(list(zip(points, values, strict=True)))

    return Replayed(n_startup_trials=startup, seed=seed, warn_independent_sampling=False)


def _apart(question: Mapping[str, Any]) -> int:
    asked = {key: value for key, value in question.items() if key != "opened"}
    done = subprocess.run(
        [sys.executable, "-m", "llmforge.sweep.proposing"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise NotProposed(said[-1] if said else f"exit code {done.returncode}")
    return int(done.stdout.strip().splitlines()[-1])


if __name__ == "__main__":
    print(_ask(json.load(sys.stdin)))
