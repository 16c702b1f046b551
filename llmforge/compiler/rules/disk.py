"""LF211: a disk that is too small for what the run keeps."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.facts.space import Space
from llmforge.compiler.memory.disk import Disk, checkpoints_at_once, disk_of, most_at_once
from llmforge.compiler.memory.sheet import gib
from llmforge.compiler.rules.base import rule
from llmforge.diagnostics import Diagnostic, Severity

_KEY = "paths.runs"


@rule("LF211", "disk too small for the run")
def disk_too_small(context: Context) -> Iterator[Diagnostic]:
    """The final model and the checkpoints that are kept at once need more room than the file system
    of `paths.runs` has, so that a save fails hours after the start.

    Looked at when the plan is made for this machine (`hardware=auto`). An error where even an empty
    disk would be too small; a warning where it is only too full now, since the run may start later,
    or go on in a folder that holds its checkpoints already. The run looks again before its first
    step, and refuses (LF820).
    """
    space, sizes = context.facts.space, disk_of(context)
    if space is None or sizes is None:
        return
    steps = context.facts.steps
    needed = most_at_once(context.spec, sizes, steps) or sizes.model
    if needed <= space.free:
        return
    never = needed > space.total
    has = f"has {_size(space.total)}" if never else f"has {_size(space.free)} free"
    count = checkpoints_at_once(context.spec, steps)
    yield Diagnostic(
        "LF211",
        f"the run keeps {_size(needed)} at once, the file system of {_KEY} {has}",
        severity=Severity.ERROR if never else Severity.WARNING,
        key=_KEY,
        notes=(
            f"final model {_size(sizes.model)}"
            + (f", {count:,} checkpoints of {_size(sizes.checkpoint)}" if count else "")
            + (f", fused model {_size(sizes.fused)}" if sizes.fused else ""),
        ),
        hint=_hint(context, sizes, space),
    )


def _hint(context: Context, sizes: Disk, space: Space) -> str:
    """Fewer checkpoints where that is enough, else another disk."""
    fewest = context.spec.checkpoint.model_copy(update={"keep": 1})
    least = most_at_once(
        context.spec.model_copy(update={"checkpoint": fewest}), sizes, context.facts.steps
    )
    if context.spec.checkpoint.keep > 1 and least is not None and least <= space.free:
        return "checkpoint.keep=1"
    return f"{_KEY}=<a folder with more room>"


def _size(amount: int) -> str:
    return gib(amount) if amount >= 2**30 else f"{amount / 2**20:.1f} MiB"
