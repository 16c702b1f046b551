"""What is sought: figures that a run will have, each with the direction that is better.

In: a sweep's settings, and one of its points compiled. Out: `Objective`s, or LF723 (no run reports
it), LF724 (nobody knows which direction is better), LF725 (pruning that cannot be). The figures of
evaluations are told by the rules of `checkpoint.best` (`compiler/rules/evaluation.py`), so that a
sweep and a run mean the same by a name.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmforge.compiler.context import Context
from llmforge.compiler.rules.evaluation import measured, reported
from llmforge.diagnostics import Diagnostic, did_you_mean, near
from llmforge.origins import Origins
from llmforge.schema.sweep import SweepSpec

AUTO = "auto"

_OTHERS: dict[str, str | None] = {
    "train_loss": "minimize",
    "tokens_per_second": "maximize",
    "seconds": "minimize",
    "trainable_parameters": "minimize",
    "total_parameters": "minimize",
}
"""Figures of every result, beside those of evaluations."""

_ON_GPUS: dict[str, str | None] = {"peak_memory_bytes": "minimize"}


@dataclass(frozen=True)
class Objective:
    """One figure that is sought."""

    name: str
    direction: str
    """`minimize` or `maximize`."""

    @property
    def sign(self) -> int:
        """1 where the smaller is the better one, else -1."""
        return 1 if self.direction == "minimize" else -1


def figures(context: Context) -> dict[str, str | None]:
    """Figures of a finished run -> which direction is better; None where only the user knows."""
    found = dict(_OTHERS)
    if context.spec.hardware.settings().get("device") == "cuda":
        found |= _ON_GPUS
    known = context.facts.data
    if known is None or known.evaluation_rows:
        found |= measured(context)
    return found


def wanted(spec: SweepSpec, best: str | None) -> dict[str, str]:
    """Names and directions as they were asked for; the direction may be `auto`."""
    if spec.objectives:
        return dict(spec.objectives)
    name = spec.objective if spec.objective != AUTO else best or "eval_loss"
    return {name: spec.direction}


def resolve(
    spec: SweepSpec, best: str | None, context: Context | None, origins: Origins
) -> tuple[tuple[Objective, ...], list[Diagnostic]]:
    """The objectives of a sweep.

    Args:
        best: `checkpoint.best`, which `objective=auto` follows.
        context: of one point; None where none could be compiled: then only directions are known.
    """
    found: list[Diagnostic] = []
    objectives: list[Objective] = []
    known = figures(context) if context is not None else {}
    several = bool(spec.objectives)
    if several and spec.objective != AUTO:
        found.append(_twice(spec, origins))
    for name, direction in wanted(spec, best).items():
        key = f"sweep.objectives.{name}" if several else "sweep.objective"
        if context is not None and name not in known:
            found.append(_unknown(name, key, context, known, origins))
            continue
        way = direction if direction != AUTO else known.get(name) or _by_ending(name)
        if way is None:
            found.append(_undirected(name, several, origins))
        else:
            objectives.append(Objective(name, way))
    return tuple(objectives), found


def pruning_faults(
    spec: SweepSpec, objectives: tuple[Objective, ...], context: Context | None, origins: Origins
) -> list[Diagnostic]:
    """LF725: a pruner that has nothing to go by."""
    if spec.pruner == "none" or not objectives:
        return []
    if len(objectives) > 1:
        return [
            Diagnostic(
                "LF725",
                f"pruner `{spec.pruner}` judges by one figure, and {len(objectives)} are sought",
                key="sweep.pruner",
                origins=origins.chain("sweep.pruner"),
                hint="sweep.pruner=none",
            )
        ]
    if context is None:
        return []
    name = objectives[0].name
    if name not in reported(context):
        names = ", ".join(reported(context))
        hint = "evaluation.answers=always" if name in measured(context) else "sweep.pruner=none"
        return [
            Diagnostic(
                "LF725",
                f"`{name}` is not measured during training, so no trial can be pruned by it",
                key="sweep.pruner",
                origins=origins.chain("sweep.pruner"),
                notes=(f"evaluations during training report {names}",),
                hint=hint,
            )
        ]
    if not evaluations_before_end(context):
        return [
            Diagnostic(
                "LF725",
                "no evaluation takes place before the last step, so no trial can be pruned",
                key="sweep.pruner",
                origins=origins.chain("sweep.pruner"),
                hint="evaluation.every=10%",
            )
        ]
    return []


def evaluations_of(context: Context | None) -> int | None:
    """Evaluations during training, the last step's among them; None where that is not known."""
    if context is None or not context.facts.steps:
        return None
    every, delay = context.spec.evaluation.every, context.spec.evaluation.delay
    if not isinstance(every, int) or not isinstance(delay, int):
        return None if every is not None else 0
    return context.facts.steps // every - max(0, delay - 1) // every


def evaluations_before_end(context: Context) -> bool:
    """May there be one before the last step?"""
    number = evaluations_of(context)
    if number is None:
        return True
    steps, every = context.facts.steps, context.spec.evaluation.every
    at_end = isinstance(every, int) and steps is not None and steps % every == 0
    return number - at_end > 0


def _by_ending(name: str) -> str | None:
    """A loss is better when it is smaller, whoever measures it."""
    return "minimize" if name.endswith(("loss", "perplexity")) else None


def _unknown(
    name: str, key: str, context: Context, known: dict[str, str | None], origins: Origins
) -> Diagnostic:
    close = near(name, known, 1)
    data = context.facts.data
    notes = did_you_mean(name, known)
    if data is not None and not data.evaluation_rows and name in measured(context):
        notes = ("no rows are held out, so nothing is measured on them",)
        close = []
    hint = close[0] if close else ("eval_loss" if "eval_loss" in known else "train_loss")
    return Diagnostic(
        "LF723",
        f"no run of this sweep will report a figure `{name}`",
        key=key,
        origins=origins.chain(key),
        notes=(*notes, f"reported: {', '.join(known)}"),
        hint=f"sweep.objective={hint}" if key == "sweep.objective"
        else f"'sweep.objectives={{{hint}: auto}}'",
    )  # fmt: skip


def _undirected(name: str, several: bool, origins: Origins) -> Diagnostic:
    key = f"sweep.objectives.{name}" if several else "sweep.direction"
    return Diagnostic(
        "LF724",
        f"whether more or less of `{name}` is better is not known",
        key=key,
        origins=origins.chain(key),
        notes=("a metric of your own says it by `better` in its spec class",),
        hint=f"{key}=maximize",
    )


def _twice(spec: SweepSpec, origins: Origins) -> Diagnostic:
    return Diagnostic(
        "LF725",
        f"`sweep.objective` is `{spec.objective}`, and `sweep.objectives` names others",
        key="sweep.objectives",
        origins=origins.chain("sweep.objectives"),
        hint="sweep.objective=auto",
    )
