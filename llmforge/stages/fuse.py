"""Fuse: an adapter merged into its base, proved, and only then put in its place.

In: a plan, the run, the order (adapter, base, target). Out: the fused folder with its model card
and label, and the figures for the record. Everything is made in a folder beside the target, which
is renamed when the proof has passed: whatever fails or is killed before that leaves what was in the
target as it was. What an earlier attempt left beside it is cleared away first.

The merging is `build/fusing/merge.py`'s, the proof `build/fusing/parity.py`'s.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.making.clearance import free_memory
from llmforge.run.making.headers import main_dtype, model_headers, size_in
from llmforge.run.making.holding import workplace
from llmforge.run.making.labels import write_label
from llmforge.run.making.order import Order
from llmforge.run.terminal import Screen

if TYPE_CHECKING:
    from llmforge.build.fusing.parity import Proof
    from llmforge.build.fusing.parity_look import Probe

_ROOM = 0.7
"""Share of the free memory that the proof may take to compute in float32."""


class ProofFailed(RuntimeError):
    """The merged model is not its base and adapter; nothing of it was kept."""

    def __init__(self, proof: Proof, dtype: str) -> None:
        """Args: the proof; the format that was merged to."""
        first = proof.first_difference
        where = ""
        if first is not None:
            where = (
                f"; the first module that differs is {first.name} ({first.difference:.2g} of it)"
            )
        super().__init__(
            f"the merged model does not agree with base and adapter: {proof.reasons[0]}{where}"
        )
        self.proof = proof
        self.notes: tuple[str, ...] = (*proof.reasons[1:], proof.summary())
        self.hint: str | None = None
        if proof.rounded_off:
            self.hint = "fuse.dtype=float32"
            self.notes += (f"no module is off by more than rounding to {dtype} does",)
        self.notes += ("nothing of it was kept",)


def fuse(plan: Plan, run: RunFolder, order: Order, screen: Screen) -> dict[str, Any]:
    """Merge, prove, seal.

    Args:
        plan: settings of the section `fuse`.
        run: whose adapter it is; only its plan and journal are read.
        order: folders of adapter, base and target.
        screen: told what is being done.

    Returns:
        `merge`, `proof`, `seconds`, `summary`, for the record.

    Raises:
        ProofFailed: the merged model is another one.
        NotFusable: the adapter cannot be merged into this base.
        PlaceBusy: another process makes something in the same place.
    """
    from llmforge.build.fusing.merge import fuse as merge
    from llmforge.build.load import flush_tree, swap
    from llmforge.run.making.card import write_made_card

    begun = time.monotonic()
    target = Path(order.target)
    with workplace(target, "fuse.folder") as work:
        settings = plan.spec.fuse
        dtype = None if settings.dtype == "auto" else str(settings.dtype)
        screen.say(f"merging {order.label} into {order.base_label}")
        made = work / target.name
        say = screen.note  # one line for each module, for the log
        merged = merge(Path(order.base), Path(order.source), made, dtype, settings.shard_size, say)
        proof, compute = prove(plan, order, made, work, screen)
        if not proof.passed:
            raise ProofFailed(proof, merged.dtype)
        seconds = round(time.monotonic() - begun, 3)
        figures = {
            "merge": merged.to_dict(),
            "proof": {**proof.to_dict(), "computed_in": compute},
            "seconds": seconds,
            "summary": [
                f"{merged.modules:,} modules merged, {merged.bytes / 2**20:,.1f} MiB in "
                f"{merged.dtype}, {seconds:.1f} s",
                f"proof passed: {proof.summary()}",
            ],
        }
        write_made_card(plan, run, order, figures, made)
        write_label(made, plan, order, run.run_id, figures)
        flush_tree(made)
        swap(made, target)
        return figures


def prove(plan: Plan, order: Order, made: Path, scratch: Path, screen: Screen) -> tuple[Proof, str]:
    """Compare the merged model with base and adapter; and the format both were run in.

    Both are run in float32, where memory has room for it: a merge is then told from its rounding.
    """
    from llmforge.build.fusing.parity import Bounds
    from llmforge.build.fusing.parity_sides import prove_fused

    settings = plan.spec.fuse
    headers = model_headers(made)
    dtype = main_dtype(headers) or "float32"
    free = free_memory()
    large = free is not None and size_in(headers, "float32") > _ROOM * free
    compute = dtype if large else "float32"
    probes = probes_of(plan, Path(order.source), screen)
    screen.say(f"proving it on {len(probes)} texts, in {compute}")
    bounds = Bounds(
        probe_tokens=settings.probe_tokens,
        new_tokens=settings.new_tokens,
        max_kl=settings.max_kl,
        min_agreement=settings.min_agreement,
        max_difference=settings.max_difference,
        max_lost=settings.max_lost,
    )
    base, adapter = Path(order.base), Path(order.source)
    found = prove_fused(base, adapter, made, probes, bounds, dtype, compute, scratch=scratch)
    return found, compute


def probes_of(plan: Plan, adapter: Path, screen: Screen) -> list[Probe]:
    """The stored probes, and held-out rows of the run where its prepared data are still there."""
    from llmforge.build.fusing.parity_look import Probe, stored_probes
    from llmforge.build.tokenizer import open_tokenizer
    from llmforge.stages.prepare import held_out

    found = stored_probes()
    count = plan.spec.fuse.probe_rows
    rows = held_out(plan) if count else None
    if rows is None or not len(rows):
        if count:
            screen.note("no held-out rows of the run are prepared: stored texts alone are probed")
        return found
    tokenizer = open_tokenizer(adapter)
    chosen = sorted({index * len(rows) // count for index in range(count)})
    for index in chosen:
        text = tokenizer.decode(rows[index]["input_ids"][: plan.spec.fuse.probe_tokens])
        found.append(Probe(f"held-out row {index}", text))
    return found
