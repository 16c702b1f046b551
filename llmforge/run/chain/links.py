"""The stages of a plan in their order, and why some are left out.

In: a plan, first and last stage as asked for. Out: `Link`s: first those of the run that trains the
model (`model=trained`), the run that trains that run's model before them, then the plan's own.
Refusals: LF980 for stages in the wrong order, LF981 for a stage that the plan does not ask for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.stage_order import STAGES, Stage


@dataclass(frozen=True)
class Link:
    """One stage of one run."""

    name: str
    """For people: `train`; of the run that trains the model `base: train`."""
    stage: Stage
    plan: Plan
    left_out: str | None = None
    """Why it is not done; None where it is."""


def links(plan: Plan, start: Stage | None = None, end: Stage | None = None) -> tuple[Link, ...]:
    """Every stage of a plan, those that are left out as well.

    Args:
        start: the first stage that is done; None is the first there is.
        end: the last one.

    Raises:
        ConfigRefused: LF980, LF981.
    """
    first = STAGES.index(start) if start else 0
    last = STAGES.index(end) if end else len(STAGES) - 1
    if first > last:
        raise _refused(
            "LF980",
            f"`{start}` comes after `{end}`, so nothing would be done",
            f"--from {end} --to {start}",
        )
    found = list(_of_bases(plan, "--from" if first else None))
    for number, stage in enumerate(STAGES):
        outside = f"before --from {start}" if number < first else None
        outside = f"after --to {end}" if number > last else outside
        reason = plan.left_out(stage)
        if reason and not outside and stage in (start, end):
            raise _refused("LF981", f"`{stage}` is not for this plan: {reason}", _HINTS.get(stage))
        found.append(Link(stage, stage, plan, reason or outside))
    return tuple(found)


_HINTS = {"fuse": "fuse.after_training=true", "quantize": "quantize=gptq"}


def _of_bases(plan: Plan, outside: str | None) -> Iterator[Link]:
    """Stages of the runs that the plan's model comes from, the one that begins first."""
    chain: list[tuple[Plan, Plan]] = []
    needs, base = plan, plan.base_plan
    while base is not None:
        chain.append((base, needs))
        needs, base = base, base.base_plan
    for depth in range(len(chain), 0, -1):
        base, needs = chain[depth - 1]
        fused = needs.settings["model"]["weights"] == "fused"
        stages: tuple[Stage, ...] = ("prepare", "train", "evaluate", "fuse")
        for stage in stages if fused else stages[:3]:
            yield Link(f"{'base of ' * (depth - 1)}base: {stage}", stage, base, outside)


def _refused(code: str, message: str, hint: str | None) -> ConfigRefused:
    return ConfigRefused([Diagnostic(code, message, hint=hint)])
