"""How long a point will take: from runs of before, else from arithmetic.

In: a plan, finished runs in the sweep's folder and beside it. Out: `Price`: hours, and what they
rest on. Runs of the same model, adapter, precision and hardware tell what one sample costs and what
starting costs; the median of them is taken. Without such a run the floating-point operations of
training are divided by the device's peak and the utilisation that `sweep.speed` states. Nothing is
foretold where neither is known, and no run is started to find out.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from statistics import median
from typing import Any

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.schema.sweep import SpeedSpec

NEWEST = 50
"""Run folders that are looked into."""

_TAIL = 65_536
"""Bytes at the end of a journal in which its last step is looked for."""


@dataclass(frozen=True)
class Price:
    """What a point will take, as far as it can be said."""

    hours: float | None = None
    basis: str = "unknown"
    """`runs`: measured on finished ones; `peak`: the device's peak at the stated utilisation."""


@dataclass(frozen=True)
class Pace:
    """What a finished run took."""

    likeness: str
    overhead: float
    """Seconds outside training: start, preparing, evaluation at the end, saving."""
    per_sample: float
    """Seconds of training for one sample, evaluations and checkpoints between included."""


def price(plan: Plan, folders: tuple[str, ...], speed: SpeedSpec) -> Price:
    """Hours of a run.

    Args:
        folders: whose run folders are looked into; the first of them is the sweep's.
    """
    samples = plan.estimate.get("samples")
    if samples is None:
        return Price()
    like = likeness(plan.settings)
    paces = [pace for pace in history(folders) if pace.likeness == like]
    if paces:
        fixed = median(pace.overhead for pace in paces)
        each = median(pace.per_sample for pace in paces)
        return Price((fixed + each * int(samples)) / 3600, "runs")
    operations = training_flops(plan)
    hardware = plan.settings["hardware"]
    peak = speed.peak_tflops.get(str(hardware["name"]))
    if operations is None or peak is None:
        return Price()
    devices = int(plan.settings["launch"]["processes"])
    return Price(operations / (peak * 1e12 * speed.utilisation * devices) / 3600, "peak")


def training_flops(plan: Plan) -> float | None:
    """Floating-point operations of training; None where the model is not known.

    Per token and matrix parameter 2 forward, 2 backward for the activations and 2 more for weights
    that are trained; and for attention 2 layers · length · width forward, twice that backward
    (Kaplan et al. 2020, arXiv 2001.08361, section 2.1). Gradient checkpointing repeats the forward.
    """
    model, tokens = plan.facts.get("model"), plan.estimate.get("tokens_at_most")
    if not model or not tokens or not model.get("layers") or not model.get("hidden"):
        return None
    used = int(model["active_parameters"])
    trained = min(used, int(plan.estimate.get("trainable_parameters") or used))
    again = 1 if plan.settings["trainer"]["gradient_checkpointing"] else 0
    length = int(plan.settings["collator"]["max_length"])
    attention = 2.0 * int(model["layers"]) * length * int(model["hidden"])
    per_token = 2.0 * used * (2 + again) + 2.0 * trained + attention * (3 + again)
    return per_token * int(tokens)


def likeness(settings: Mapping[str, Any]) -> str:
    """What two runs must share for one to tell the time of the other."""
    hardware, launch = settings["hardware"], settings["launch"]
    collator, trainer = settings["collator"], settings["trainer"]
    parts = {
        "model": settings["model"],
        "adapter": settings["lora"]["kind"],
        "quantization": settings["quantization"],
        "precision": settings["precision"]["compute"],
        "device": [hardware["name"], hardware["cores"]],
        "processes": launch["processes"],
        "length": [collator["max_length"], collator["packing"]],
        "checkpointing": trainer["gradient_checkpointing"],
    }
    return json.dumps(parts, sort_keys=True, default=str)


@lru_cache(maxsize=8)
def history(folders: tuple[str, ...]) -> tuple[Pace, ...]:
    """What finished runs took, as they were when first asked for."""
    runs = [path for folder in folders for path in Path(folder).glob("*/result.json")]
    runs.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    paces = (_pace(RunFolder(path.parent)) for path in runs[:NEWEST])
    return tuple(pace for pace in paces if pace is not None)


def _pace(run: RunFolder) -> Pace | None:
    """Of a run in one go; None where its files do not tell."""
    record, result = run.record(), run.result() or {}
    if record.status is not Status.FINISHED or record.attempts != 1:
        return None
    try:
        settings = json.loads(run.plan_file.read_text(encoding="utf-8"))["settings"]
        steps = list(_ends(run.journal))
        (first, began), (last, ended) = steps[0], steps[-1]
        training = (ended - began) / 1000
        per_step = training / (last - first)
        overhead = max(0.0, float(result["seconds"]) - per_step * last)
        return Pace(likeness(settings), overhead, per_step / settings["trainer"]["global_batch"])
    except (OSError, ValueError, KeyError, IndexError, TypeError, ZeroDivisionError):
        return None  # a run of another version, or of one step: it tells nothing


def _ends(journal: Path) -> Iterator[tuple[int, int]]:
    """First and last training step with their milliseconds; a journal may be long."""
    with journal.open("rb") as file:
        for line in file:
            if (found := _step(line)) is not None:
                yield found
                break
        file.seek(0, 2)
        file.seek(max(0, file.tell() - _TAIL))
        tail = [found for line in file if (found := _step(line)) is not None]
    yield from tail[-1:]


def _step(line: bytes) -> tuple[int, int] | None:
    try:
        entry = json.loads(line)
        if "train_loss" not in entry.get("values", {}):
            return None
        return int(entry["step"]), int(entry["t"])
    except (ValueError, KeyError, AttributeError):
        return None  # half a line, where the tail begins
