"""Which checkpoints of a run can be resumed from.

In: the folder that the Trainer writes `checkpoint-N` folders into. Out: the whole ones, newest
first, and what is missing from the others. The Trainer writes a checkpoint in place, file by file,
so a process killed in the middle of a save leaves a folder that looks like one; loading such a
folder fails obscurely, or resumes silently with a fresh optimizer.

The checks read directories, headers and file ends only; no weights are loaded, no torch imported.
"""

from __future__ import annotations

import json
import shutil
import struct
import zipfile
from dataclasses import dataclass
from pathlib import Path

PREFIX = "checkpoint-"


@dataclass(frozen=True)
class Checkpoint:
    """One `checkpoint-N` folder."""

    path: Path
    step: int
    """Optimizer steps that lie behind it."""
    fault: str | None = None
    """Why it cannot be resumed from; None for a whole one."""


def scan(folder: Path) -> list[Checkpoint]:
    """Every checkpoint folder, newest first, whole or not."""
    found = []
    for path in folder.glob(f"{PREFIX}*") if folder.is_dir() else ():
        step = path.name.removeprefix(PREFIX)
        if path.is_dir() and step.isdigit():
            found.append(Checkpoint(path, int(step), fault(path)))
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


def remove(checkpoint: Checkpoint) -> None:
    """Delete a checkpoint; `trainer_state.json` goes first, so that half a deletion shows."""
    (checkpoint.path / "trainer_state.json").unlink(missing_ok=True)
    shutil.rmtree(checkpoint.path)


def fault(path: Path) -> str | None:
    """What keeps a checkpoint folder from being resumed from, or None."""
    state = path / "trainer_state.json"
    if not state.is_file():
        return "trainer_state.json is missing"
    try:
        json.loads(state.read_text(encoding="utf-8"))
    except ValueError:
        return "trainer_state.json is cut short"
    return _weights_fault(path) or _state_fault(path)


def _weights_fault(path: Path) -> str | None:
    """Weights: one file, an index with its shards, an adapter, or a sharded engine's folder."""
    if any(path.glob("global_step*/")) or any(path.glob("pytorch_model_fsdp_*/")):
        return None
    index = path / "model.safetensors.index.json"
    if index.is_file():
        try:
            names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError):
            return f"{index.name} is cut short"
        files = [path / name for name in sorted(names)]
    else:
        single = [path / "model.safetensors", path / "adapter_model.safetensors"]
        files = [file for file in single if file.is_file()]
    if not files:
        return "no weights"
    for file in files:
        if not file.is_file():
            return f"{file.name} is missing"
        if not whole_safetensors(file):
            return f"{file.name} is cut short"
    return None


def _state_fault(path: Path) -> str | None:
    """Optimizer, schedule and random state; without them resuming would not be the same run."""
    if any(path.glob("global_step*/")):
        return None  # DeepSpeed keeps all three inside its own folder
    files = [path / "scheduler.pt"]
    if not any(path.glob("optimizer_*/")):
        files.append(path / "optimizer.pt")
    files += sorted(path.glob("rng_state*.pth")) or [path / "rng_state.pth"]
    for file in files:
        if not file.is_file():
            return f"{file.name} is missing"
        if not zipfile.is_zipfile(file):
            return f"{file.name} is cut short"
    return None


def whole_safetensors(file: Path) -> bool:
    """Does the file hold every byte its header announces?"""
    size = file.stat().st_size
    try:
        with file.open("rb") as stream:
            (header_size,) = struct.unpack("<Q", stream.read(8))
            if header_size > size:
                return False
            header = json.loads(stream.read(header_size))
        ends = [entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"]
    except (struct.error, ValueError, KeyError, TypeError):
        return False
    return bool(size == 8 + header_size + max(ends, default=0))
