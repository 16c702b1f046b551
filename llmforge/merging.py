"""What `llmforge fuse` does: an adapter merged into its base, with proof.

In: what names the adapter, and how it is to be merged. Out: the outcome, whose folder is the fused
model. An adapter that was merged so before is answered from its record.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from llmforge.refs.subjects import Asked, Subject, find_subject
from llmforge.run.launch import Outcome, run_making
from llmforge.run.making import order as making
from llmforge.run.making.fusing import fuse_order
from llmforge.run.making.order import Order


def fuse(
    ref: str | Path | Outcome,
    checkpoint: str | int | None = None,
    *,
    overrides: Sequence[str] = (),
    output: str | Path | None = None,
    quiet: bool = False,
) -> Outcome:
    """Merge an adapter into its base on the CPU, and prove that the result is the same model.

    Args:
        ref: what `plan.run()` returned; a run, a checkpoint, an adapter's folder, `models:/name/3`,
            `name@best`, or an adapter's repository on the hub.
        checkpoint: `best`, `last` or a number of steps; None is the run's final adapter.
        overrides: of the section `fuse`: `fuse.dtype=float16`.
        output: folder of the fused model; None is `fused/` in the run's folder.
        quiet: nothing on the terminal.

    Returns:
        The outcome: its folder is the fused model, which `llmforge.load` takes, and its result the
        record with the proof. A proof that fails is an outcome with exit code 1 and a diagnostic.

    Raises:
        llmforge.diagnostics.ConfigRefused: there is no such adapter or base, or no room (LF940 to
            LF948).
    """
    from llmforge.compiler.overlay import word

    given = ref.folder if isinstance(ref, Outcome) else ref
    more = [word("fuse.folder", str(output))] if output is not None else []
    subject = find_subject(Asked(given, None, checkpoint, (*overrides, *more)))
    order = order_of(subject)
    outcome = run_making(subject.plan, subject.run, order, quiet)
    return replace(outcome, folder=Path(order.target))


def order_of(subject: Subject) -> Order:
    """The order to merge a subject.

    Raises:
        ConfigRefused: LF940-LF947.
    """
    return fuse_order(
        subject.plan, subject.run, subject.folder, subject.place.label, subject.step,
        subject.trained,
    )  # fmt: skip


def replaced(subject: Subject, order: Order) -> str | None:
    """What is said of an earlier result that is made anew; None where there is none."""
    known = making.record(subject.run, order.stage)
    if known is None or known.get("fingerprint") == order.fingerprint:
        return None
    if known.get("target") != order.target:
        return None
    asked = {"settings": subject.plan.settings[order.stage], "source_digest": order.source_digest}
    changed = [
        f"{order.stage}.{name}"
        for name, value in asked["settings"].items()
        if (known.get("settings") or {}).get(name) != value
    ]
    if known.get("source_digest") != order.source_digest:
        changed.append("the adapter")
    if known.get("base_digest", "") != order.base_digest:
        changed.append("the base")
    return f"{order.target} was made with another {', '.join(changed) or 'version'}; made anew"
