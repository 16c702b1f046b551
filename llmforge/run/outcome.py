"""What a finished training leaves in its folder: manifest, result, and what surprised.

In: the journal, figures, the final model's folder. Out: `manifest.json`, `result.json`, warnings.
Nothing is measured here and nothing is printed.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run import journal, room
from llmforge.run.folder import RunFolder


def write_manifest(run: RunFolder) -> dict[str, Any]:
    """Size and digest of every file of the final model; its presence says that all were written."""
    found = {"folder": run.model.name, "files": file_digests(run.model)}
    run.write_json(run.manifest.name, found)
    return found


def file_digests(folder: Path) -> dict[str, dict[str, Any]]:
    """`{name: {bytes, sha256}}` of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): {
            "bytes": path.stat().st_size,
            "sha256": file_digest(path),
        }
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def baseline(run: RunFolder) -> dict[str, float]:
    """The untrained model's figures as an earlier attempt measured them; empty if none did.

    They are written in one line when all are known, so half a baseline does not count.
    """
    found = journal.history(run.journal)
    prefix = "baseline_"
    return {
        key.removeprefix(prefix): points[0]
        for key, points in found.items()
        if key.startswith(prefix) and 0 in points
    }


def compose_result(
    plan: Plan,
    run: RunFolder,
    figures: Mapping[str, Any],
    untrained: Mapping[str, float],
    facts: Mapping[str, Any],
) -> dict[str, Any]:
    """Everything a reader of the run asks for; keys without a value are left out.

    `train_loss` is the mean of the last logged steps and `first_train_loss` that of the first, the
    same whether the run was interrupted or not; `seconds` adds up all attempts.
    """
    history = journal.history(run.journal)
    losses = list(history.get("train_loss", {}).values())
    speeds = list(history.get("tokens_per_second", {}).values())
    found = {
        "run_id": plan.run_id,
        "fingerprint": plan.fingerprint,
        "train_loss": losses[-1] if losses else None,
        "first_train_loss": losses[0] if losses else None,
        "tokens_per_second": speeds[-1] if speeds else None,
        **facts,
        **figures,
        "baseline": dict(untrained),
        "seconds": round(journal.seconds(run.journal), 3),
        "attempts": run.record().attempts,
        "resharded": run.read_json("reshard.json"),
        "model": str(run.model),
    }
    return {key: value for key, value in found.items() if value is not None}


_SURPRISE = "the result stands; please report this, the plan is meant to be exact"
_HOOKED = "the result stands; the plan does not know what the run's experiment changes"


def surprises(
    plan: Plan, steps: int | None, trainable: int, seen: int | None = None
) -> list[Diagnostic]:
    """Where the run did not do what the plan foretold.

    Args:
        steps: optimizer steps done; None for a run that was meant to end early if need be.
        trainable: parameters trained.
        seen: tokens trained on; the plan foretells no more than the most they can be.
    """
    most = plan.estimate.get("tokens_at_most")
    too_many = None
    if seen is not None and most is not None and seen > most:
        too_many = f"the plan foretold {most:,} tokens at most; the run had {seen:,}"
    measured = {"steps": steps, "trainable_parameters": trainable}
    found = {
        key: f"the plan foretold {plan.estimate[key]:,} {key.replace('_', ' ')}; "
        f"the run had {value:,}"
        for key, value in measured.items()
        if value is not None and plan.estimate.get(key) is not None and plan.estimate[key] != value
    }
    return [
        Diagnostic(
            "LF810",
            message,
            severity=Severity.WARNING,
            key=f"estimate.{key}",
            origins=plan.origins.chain(f"estimate.{key}"),
            notes=(_SURPRISE if plan.settings["hooks"]["kind"] == "none" else _HOOKED,),
        )
        for key, message in (found | ({"tokens_at_most": too_many} if too_many else {})).items()
    ]


def repeated(plan: Plan, again: int, rows: int) -> list[Diagnostic]:
    """Rows that are trained on twice in each epoch, as several processes cannot share them evenly.

    Args:
        again: how many; zero gives nothing.
        rows: of the training set, as they are batched.
    """
    if not again:
        return []
    whole = rows - rows % int(plan.settings["trainer"]["global_batch"])
    as_given = (plan.facts["data"].get("rows") or {}).get("train") == rows
    return [
        Diagnostic(
            "LF813",
            f"{again} of {rows:,} rows are trained on twice in each epoch",
            severity=Severity.WARNING,
            key="launch.processes",
            origins=plan.origins.chain("launch.processes"),
            notes=("the processes fill the epoch's last batch with its first rows",),
            hint=f"data.max_train_rows={whole}" if as_given and whole else None,
        )
    ]


def tokens(plan: Plan, measured: int | None) -> dict[str, int]:
    """Tokens that were trained on, beside the most that the plan allowed for; empty where they were
    not counted."""
    if measured is None:
        return {}
    most = plan.estimate.get("tokens_at_most")
    return {"measured": measured} | ({"foretold_at_most": most} if most is not None else {})


def disk(plan: Plan, run: RunFolder) -> dict[str, float]:
    """Bytes of final model and checkpoints as they lie there, beside what the plan foretold of as
    many checkpoints.

    `foretold_at_most_bytes` is the most crowded moment, when one checkpoint replaces another;
    `error` is foretold / measured - 1. Tokenizers and records, a few megabytes each, are not
    foretold, so it is below zero for small models.
    """
    sizes = plan.estimate.get("disk") or {}
    foretold = None
    if "model_bytes" in sizes and "checkpoint_bytes" in sizes:
        foretold = sizes["model_bytes"] + len(run.checkpoints()) * sizes["checkpoint_bytes"]
    found = _beside(foretold, room.written(run))
    most = sizes.get("total_bytes")
    return found | ({"foretold_at_most_bytes": most} if found and most is not None else {})


def memory(plan: Plan, measured: int | None) -> dict[str, float]:
    """Foretold beside measured peak memory of one device, in bytes; empty where none is measured.

    `error` is foretold / measured - 1: below zero the plan was too hopeful. It is above zero where
    rows are shorter than `collator.max_length`, which is what the plan budgets.
    """
    return _beside((plan.estimate.get("memory") or {}).get("peak_bytes"), measured)


_OF_TRAINING = ("optimizer_state", "master_weights", "float32_logits")
"""Terms of the plan's evaluation that are not there where nothing was trained before."""


def evaluation_memory(plan: Plan, measured: int | None) -> dict[str, float]:
    """As `memory`, of a process that evaluates and does not train."""
    phases = plan.estimate.get("memory") or {}
    evaluation = phases.get("evaluation") or {}
    needed = sum(amount for term, amount in evaluation.items() if term not in _OF_TRAINING)
    return _beside(max(needed, sum((phases.get("load") or {}).values())), measured)


def _beside(foretold: int | None, measured: int | None) -> dict[str, float]:
    if not measured:
        return {}
    found: dict[str, float] = {"measured_bytes": measured}
    if foretold:
        found |= {"foretold_bytes": foretold, "error": round(foretold / measured - 1, 4)}
    return found
