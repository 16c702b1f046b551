"""Is there room for what a run will write?

In: a plan and its run folder. Out: nothing, or `NoRoom` before the first step, where the disk would
be full hours later. What is needed is what the plan foretells (`estimate.disk`), less what already
lies in the folder; what is free is what the file system of the folder gives to this user.

Room that others take meanwhile is not foreseen: a checkpoint that fails for it leaves the ones
before it whole.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from llmforge.plan import Plan
from llmforge.render import size_text
from llmforge.run.folder import RunFolder


class NoRoom(RuntimeError):
    """The run folder's file system has too little free space."""

    def __init__(self, needed: int, free: int, folder: Path) -> None:
        super().__init__(
            f"the run will write {size_text(needed)} to {folder}, and "
            f"{size_text(free)} are free there"
        )
        self.needed, self.free = needed, free
        """Bytes."""


def check_room(plan: Plan, run: RunFolder) -> None:
    """Compare need and free space; a plan that foretells nothing passes.

    Raises:
        NoRoom: the need is larger.
    """
    needed = need(plan) - written(run)
    free = free_bytes(run.path)
    if free is not None and needed > free:
        raise NoRoom(needed, free, run.path)


def need(plan: Plan) -> int:
    """Bytes that lie in the folder at the most crowded moment; 0 where nothing is foretold."""
    disk = plan.estimate.get("disk") or {}
    return int(disk.get("total_bytes") or disk.get("model_bytes") or 0)


def written(run: RunFolder) -> int:
    """Bytes of checkpoints and final model that are there already."""
    folders = (run.checkpoint_folder, run.model)
    files = (file for folder in folders for file in folder.rglob("*") if file.is_file())
    return sum(file.stat().st_size for file in files)


def free_bytes(folder: Path) -> int | None:
    """Free space of the folder's file system; None where it does not tell."""
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else None
