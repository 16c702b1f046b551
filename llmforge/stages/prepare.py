"""Prepare: rows to tokenised samples on disk, once, shared by every run that needs the same.

In: a plan. Out: `Prepared`: the folder, its tokenizer, memory-mapped samples with columns
`input_ids`, `labels`, `length`, `source_row`, `set` (evaluation samples have `prompt` as well,
pairs `rejected_input_ids` and `rejected_labels`), how they are packed, and a report in which
rows in = rows used + rows rejected.

A folder is built under another name and renamed when whole, under a lock, so a killed preparation
leaves nothing half-used and processes that need the same samples wait for one of them.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from llmforge import registry
from llmforge.build.errors import DataChanged, DataRefused, building
from llmforge.build.prepared import Prepared, sync
from llmforge.digests import edge_digest, file_digest, remember_digest
from llmforge.plan import Plan
from llmforge.schema.collate import PreferenceCollator
from llmforge.store import MANIFEST, RECEIPT, REPORT, prepared_folder

__all__ = ["DataChanged", "DataRefused", "Prepared", "prepare"]


def prepare(plan: Plan, report: Callable[[Prepared], None] | None = None) -> Prepared:
    """Make the plan's samples, or find them.

    Args:
        report: called before the limits are checked, so that who is refused can see why.

    Raises:
        DataChanged: a data file is not the one the plan was made for.
        DataRefused: a row cannot become a sample, none is left, or a limit of section `data` is
            crossed; names `file:line` or the setting.
        BuildError: data, tokenizer or collator could not be built.
    """
    from llmforge.build.thresholds import check_thresholds

    folder = prepared_folder(plan.spec.paths.cache, plan.stages["prepare"])
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _locked(folder.parent / f"{folder.name}.lock"):
        reused = _whole(folder, plan)
        if not reused:
            _build(plan, folder)
    prepared = _open(plan, folder, reused)
    if report is not None:
        report(prepared)
    check_thresholds(plan, prepared.report)
    return prepared


def find(plan: Plan) -> dict[str, Any] | None:
    """The report of samples that were prepared before; None if they are not there whole."""
    folder = prepared_folder(plan.spec.paths.cache, plan.stages["prepare"])
    if not _whole(folder, plan):
        return None
    report: dict[str, Any] = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return report


def held_out(plan: Plan) -> Any:
    """Held-out samples that were prepared before; None where they are not there whole."""
    folder = prepared_folder(plan.spec.paths.cache, plan.stages["prepare"])
    return _open(plan, folder, True).evaluation if _whole(folder, plan) else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the lock; the kernel frees it when its holder dies, however it dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _whole(folder: Path, plan: Plan) -> bool:
    """Is everything there that the manifest, written last, says?"""
    cache = Path(plan.spec.paths.cache)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["fingerprint"] == plan.stages["prepare"] and all(
            file_digest(folder / name, cache) == digest
            for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _build(plan: Plan, folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)  # of a preparation that was killed
    staged = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        digests = _write(plan, staged)
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    for name, digest in digests.items():
        remember_digest(folder / name, digest, Path(plan.spec.paths.cache))


def _write(plan: Plan, folder: Path) -> dict[str, str]:
    """Every file of the folder; returns their digests, which the manifest holds as well."""
    from llmforge.build.data import rows_of
    from llmforge.build.tokenizer import make_tokenizer

    began = time.monotonic()
    before = _check_files(plan)
    with building("data", plan):
        splits = registry.component("data", plan.spec.data.kind).load_builder()(plan)
    folder.mkdir(parents=True)
    with building("tokenizer", plan):
        tokenizer = make_tokenizer(plan, rows_of(splits.train))
        tokenizer.save_pretrained(folder / "tokenizer")
    with building("collator", plan), _all_cores():
        report = _write_samples(plan, splits, tokenizer, folder)
    for name, state in before.items():
        if _state(Path(name)) != state:
            raise DataChanged(f"{name} was written to while it was being prepared; run again")
    report |= {"vocabulary": len(tokenizer), "seconds": round(time.monotonic() - began, 3)}
    (folder / REPORT).write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    cache = Path(plan.spec.paths.cache)
    digests = {str(path.relative_to(folder)): file_digest(path, cache) for path in files}
    for path in files:
        sync(path)
    manifest = {"fingerprint": plan.stages["prepare"], "files": digests}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sync(folder / MANIFEST)
    return digests


@contextmanager
def _all_cores() -> Iterator[None]:
    """The tokenizer's own threads, which are off while data-loader processes may be forked."""
    name = "TOKENIZERS_PARALLELISM"
    before = os.environ.get(name)
    os.environ[name] = "true"
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _write_samples(plan: Plan, splits: Any, tokenizer: Any, folder: Path) -> dict[str, Any]:
    """Samples of both sides, the packs, the receipt; returns the report."""
    import numpy as np

    from llmforge.build.arrow import Side
    from llmforge.build.batches import ROWS, Makers
    from llmforge.build.packing import pack

    longest = int(plan.spec.collator.max_length)
    report: dict[str, Any] = {"evaluation": None, "packing": None}
    with (
        (folder / RECEIPT).open("w", encoding="utf-8", errors="backslashreplace") as receipt,
        Makers(plan, tokenizer, folder / "tokenizer") as makers,
    ):
        pairs = isinstance(plan.spec.collator, PreferenceCollator)
        train = Side(folder / "train.arrow", receipt, longest, False, pairs)
        # streamed rows are tokenised while training; the first tell what they are like
        rows = islice(splits.train, ROWS) if plan.spec.data.streaming else splits.train
        train.write({"train": rows}, makers)
        report["train"] = train.report()
        if splits.evaluation:
            # what is asked of the model when it is evaluated, for people to read
            held = Side(folder / "evaluation.arrow", receipt, longest, True, pairs)
            held.write(splits.evaluation, makers)
            overlap = int(np.isin(held.digests, np.unique(train.digests)).sum())
            report["evaluation"] = {**held.report(), "overlap": overlap}
    if plan.spec.collator.packing != "none" and train.lengths.size:
        packs = pack(train.lengths, longest)
        packs.save(folder)
        report["packing"] = {
            "packs": len(packs),
            "capacity": longest,
            "efficiency": packs.efficiency,
            "fewest_possible": -(-int(train.lengths.sum()) // longest),
        }
    return report


def _check_files(plan: Plan) -> dict[str, tuple[int, int, int]]:
    """Compare every data file with the plan; returns their states, to be looked at again after."""
    states: dict[str, tuple[int, int, int]] = {}
    for part in plan.data_parts():
        path = Path(part["file"])
        try:
            states[part["file"]] = _state(path)
            cache = Path(plan.spec.paths.cache)
            found = edge_digest(path) if part["edges"] else file_digest(path, cache)
        except OSError as error:
            raise DataChanged(
                f"{part['name']}, which the plan was made for, cannot be read: {error.strerror}"
                + ("" if path.is_absolute() else f" (looked from {Path.cwd()})")
            ) from error
        if found != part["sha256"]:
            raise DataChanged(
                f"{part['name']} is not the file the plan was made for: its SHA-256 is "
                f"{found[:12]}…, the plan holds {part['sha256'][:12]}…; plan again to train on "
                "what is there now"
            )
    return states


def _open(plan: Plan, folder: Path, reused: bool) -> Prepared:
    import datasets

    datasets.utils.disable_progress_bars()
    held = folder / "evaluation.arrow"
    report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    return Prepared(
        folder=folder,
        tokenizer_folder=folder / "tokenizer",
        plan=plan,
        train=datasets.Dataset.from_file(str(folder / "train.arrow")),
        evaluation=datasets.Dataset.from_file(str(held)) if held.is_file() else None,
        packed=report["packing"] is not None,
        report=report,
        reused=reused,
    )


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino
