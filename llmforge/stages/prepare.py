"""Prepare: rows to tokenised samples on disk, once, shared by every run that needs the same.

In: a plan. Out: `Prepared`: the folder, its tokenizer, memory-mapped data sets with columns
`input_ids`, `labels`, `length`, `source_row` (held-out samples have `prompt` as well), and a report
in which rows in = rows used + rows rejected.

A folder is built under another name and renamed when whole, under a lock, so a killed preparation
leaves nothing half-used and processes that need the same samples wait for one of them.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmforge import registry
from llmforge.build.errors import DataChanged, DataRefused, building
from llmforge.build.prepared import Prepared, sync
from llmforge.plan import Plan

__all__ = ["DataChanged", "DataRefused", "Prepared", "prepare"]

MANIFEST = "manifest.json"
RECEIPT = "receipt.jsonl"


def prepare(plan: Plan) -> Prepared:
    """Make the plan's samples, or find them.

    Raises:
        DataChanged: a data file is not the one the plan was made for.
        DataRefused: a row cannot become a sample, or none is left; names `file:line`.
        BuildError: data, tokenizer or collator could not be built.
    """
    fingerprint = plan.stages["prepare"]
    parent = Path(plan.spec.paths.cache) / "prepared"
    folder = parent / fingerprint[:16]
    parent.mkdir(parents=True, exist_ok=True)
    with _locked(parent / f"{folder.name}.lock"):
        reused = _whole(folder, fingerprint)
        if not reused:
            _build(plan, folder)
    return _open(folder, reused)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Wait for the lock; the kernel frees it when its holder dies, however it dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _whole(folder: Path, fingerprint: str) -> bool:
    """Is everything there that the manifest, written last, says?"""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return manifest["fingerprint"] == fingerprint and all(
            _digest(folder / name) == digest for name, digest in manifest["files"].items()
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _build(plan: Plan, folder: Path) -> None:
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        shutil.rmtree(left, ignore_errors=True)  # of a preparation that was killed
    staged = folder.parent / f".{folder.name}.{os.getpid()}.tmp"
    try:
        _write(plan, staged)
        if folder.exists():
            shutil.rmtree(folder)
        staged.rename(folder)
        sync(folder.parent)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _write(plan: Plan, folder: Path) -> None:
    from llmforge.build import arrow
    from llmforge.build.tokenizer import make_tokenizer

    began = time.monotonic()
    before = _check_files(plan)
    with building("data", plan):
        splits = registry.component("data", plan.spec.data.kind).load_builder()(plan)
    folder.mkdir(parents=True)
    with building("tokenizer", plan):
        tokenizer = make_tokenizer(plan, splits.train)
        tokenizer.save_pretrained(folder / "tokenizer")
    with building("collator", plan), (folder / RECEIPT).open("w", encoding="utf-8") as receipt:
        report: dict[str, Any] = {
            "train": arrow.write_split(plan, tokenizer, splits.train, folder / "train", receipt),
            "evaluation": None,
        }
        if splits.evaluation is not None:
            report["evaluation"] = arrow.write_split(
                plan, tokenizer, splits.evaluation, folder / "evaluation", receipt
            )
    for name, state in before.items():
        if _state(Path(name)) != state:
            raise DataChanged(f"{name} was written to while it was being prepared; run again")
    report |= {"vocabulary": len(tokenizer), "seconds": round(time.monotonic() - began, 3)}
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    manifest = {
        "fingerprint": plan.stages["prepare"],
        "files": {str(path.relative_to(folder)): _digest(path) for path in files},
    }
    for path in files:
        sync(path)
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    sync(folder / MANIFEST)


def _check_files(plan: Plan) -> dict[str, tuple[int, int, int]]:
    """Compare every data file with the plan; returns their states, to be looked at again after."""
    states: dict[str, tuple[int, int, int]] = {}
    for name, facts in plan.facts["data"]["files"].items():
        path = Path(name)
        try:
            states[name] = _state(path)
            found = _digest(path)
        except OSError as error:
            raise DataChanged(
                f"{name}, which the plan was made for, cannot be read: {error.strerror}"
                + ("" if path.is_absolute() else f" (looked from {Path.cwd()})")
            ) from error
        if found != facts["sha256"]:
            raise DataChanged(
                f"{name} is not the file the plan was made for: its SHA-256 is {found[:12]}…, "
                f"the plan holds {facts['sha256'][:12]}…; plan again to train on what is there now"
            )
    return states


def _open(folder: Path, reused: bool) -> Prepared:
    import datasets

    held = folder / "evaluation"
    return Prepared(
        folder=folder,
        tokenizer_folder=folder / "tokenizer",
        train=datasets.Dataset.load_from_disk(str(folder / "train")),
        evaluation=datasets.Dataset.load_from_disk(str(held)) if held.is_dir() else None,
        report=json.loads((folder / "report.json").read_text(encoding="utf-8")),
        reused=reused,
    )


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
