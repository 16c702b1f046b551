"""What is made of a finished model: the order to a worker, and the record of what came of it.

In: a model's place, a plan, the stage (`fuse` or `quantize`). Out: an `Order` for the worker's
environment, and beside what was made its record `<run>/<stage>.json`: what it was made from, by
which settings, and the figures that were measured. A stage whose record fits the order is done.

Nothing is merged or quantized here; no torch.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from llmforge.plan import CODE_VERSION, Plan, canonical_digest
from llmforge.run.folder import RunFolder
from llmforge.run.journal import Journal
from llmforge.run.making.labels import fault_of
from llmforge.run.outcome import file_digests
from llmforge.run.status import timestamp
from llmforge.stage_order import FOLDERS, Making

VARIABLE = "LLMFORGE_ORDER"
"""Environment variable that carries the order to the worker."""


class Base(Protocol):
    """The base of an adapter; see `originals.py`."""

    @property
    def folder(self) -> Path:
        """Where it lies."""

    @property
    def label(self) -> str:
        """For people."""

    @property
    def digest(self) -> str:
        """Of config and weights."""


@dataclass(frozen=True)
class Order:
    """What the worker is asked to make, and from what."""

    stage: Making
    source: str
    """Folder of the adapter (fuse) or of the full model (quantize)."""
    label: str
    """The source for people: `demo-0123456789, step 50`."""
    source_digest: str
    """Of the source's files, as `source_digest` gives it."""
    target: str
    """Folder that is made, absolute."""
    fingerprint: str
    """Of source and settings: the same fingerprint is the same result."""
    step: int = 0
    """Optimizer steps behind the source."""
    base: str = ""
    """Folder of the full-precision base that an adapter is merged into."""
    base_label: str = ""
    """The base for people: folder, or hub name and commit."""
    base_digest: str = ""
    """Of the base's config and weights."""
    trained: bool = True
    """Is the plan the one that the model was trained by, so that its rows are the model's own?"""
    rows: str = ""
    """File in the run folder with the plan of calibration rows that are not the run's own."""

    def variables(self) -> dict[str, str]:
        """For the worker's environment."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def received(cls) -> Order | None:
        """The order of this process; None where it has none."""
        text = os.environ.get(VARIABLE)
        return cls(**json.loads(text)) if text else None


def source_digest(folder: Path) -> str:
    """SHA-256 over names and contents of the files of a model folder, its own records left out.

    A checkpoint's training state is no part of the model, and a `base/` is one.
    """
    return canonical_digest({name: entry["sha256"] for name, entry in file_digests(folder).items()})


def order(
    plan: Plan,
    run: RunFolder,
    stage: Making,
    source: Path,
    label: str,
    step: int,
    base: Base | None = None,
) -> Order:
    """The order to make `stage` of the model in `source`, by the settings of the plan.

    Args:
        base: what an adapter is merged into.
    """
    settings = plan.settings[stage]
    digest = source_digest(source)
    what: dict[str, Any] = {"code": CODE_VERSION, "source": digest}
    what["settings"] = decisive(plan, stage)
    if base is not None:
        what["base"] = base.digest
    folder = settings.get("folder")
    target = Path(folder).absolute() if folder else run.path / FOLDERS[stage]
    made = Order(stage, str(source), label, digest, str(target), canonical_digest(what), step)
    if base is None:
        return made
    return replace(made, base=str(base.folder), base_label=base.label, base_digest=base.digest)


def decisive(plan: Plan, stage: Making) -> dict[str, Any]:
    """The settings of the stage's section that change what is made."""
    from llmforge.schema import Effect

    spec = getattr(plan.spec, stage)
    return {
        name: value
        for name, value in spec.settings().items()
        if type(spec).effect_of(name) is not Effect.BOOKKEEPING
    }


def plan_file(run: RunFolder, stage: Making) -> Path:
    """The plan a stage was ordered by; not the run's own, whose settings it may change."""
    return run.path / f"{stage}.plan.json"


def plan_of(run: RunFolder, made: Order) -> Plan:
    """The plan that was saved with the order."""
    return Plan.load(plan_file(run, made.stage))


def numbers(found: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The figures of a record for the journal and the tracker, nested names joined by `/`."""
    flat: dict[str, float] = {}
    for name, value in found.items():
        if name in ("files", "settings", "step", "bounds"):
            continue
        if isinstance(value, Mapping):
            flat |= numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            flat[f"{prefix}{name}"] = float(value)
    return flat


def record_file(run: RunFolder, stage: Making) -> Path:
    """Where it is written what came of a stage."""
    return run.path / f"{stage}.json"


def record(run: RunFolder, stage: Making) -> dict[str, Any] | None:
    """What came of a stage, if it was done; its `target` is absolute."""
    found = run.read_json(record_file(run, stage).name)
    # one inside the run folder is written as seen from there, and moves with it
    return None if found is None else {**found, "target": str(run.path / found["target"])}


def finished(run: RunFolder, wanted: Order) -> dict[str, Any] | None:
    """The record of exactly this order, where its folder still holds what was written."""
    known = record(run, wanted.stage)
    if known is None or known.get("fingerprint") != wanted.fingerprint:
        return None
    if known.get("target") != wanted.target:
        return None
    files = known.get("files")
    return known if files and fault_of(Path(wanted.target), files) is None else None


def keep_record(
    run: RunFolder, plan: Plan, made: Order, figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the record of what was made, last of all: its presence says that all is there.

    Its numbers also go to the run's journal, and with it to the tracker, as `fuse/seconds`.

    Args:
        run: whose model it is.
        plan: the settings it was made by.
        made: the order.
        figures: JSON-able; the proof, sizes, perplexities, seconds.

    Returns:
        What was written.
    """
    found = {
        "stage": made.stage,
        "run_id": run.run_id,
        "source": made.source,
        "label": made.label,
        "source_digest": made.source_digest,
        "step": made.step,
        **({"base": made.base_label, "base_digest": made.base_digest} if made.base else {}),
        "target": made.target,
        "fingerprint": made.fingerprint,
        "settings": plan.settings[made.stage],
        "time": timestamp(),
        **figures,
        "files": file_digests(Path(made.target)),
    }
    inside = Path(made.target).is_relative_to(run.path)
    target = os.path.relpath(made.target, run.path) if inside else made.target
    run.write_json(record_file(run, made.stage).name, {**found, "target": target})
    journal = Journal(run.journal)
    journal.append(numbers(figures, f"{made.stage}/"), made.step)
    journal.close()
    return found
