"""A run folder on its way: from the node of rank 0 to `launch.storage`, and to other nodes.

In: a run folder, or a checkpoint that Ray kept. Out: the same folder elsewhere. What travels is the
folder without locks and logs of other ranks; a checkpoint in it is sealed, so that a half-copied
one is never gone on from.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder

LAST = "finished"
_LEFT = shutil.ignore_patterns(".*", "ray", "log-rank*.txt", "failure-rank*.json")


def is_uri(storage: str) -> bool:
    """Is it `scheme://...` and no folder?"""
    return "://" in storage


def send(folder: Path | None, step: int | None) -> None:
    """Report the folder to Ray, which copies it to its storage; every rank must call this.

    Args:
        folder: of rank 0; None on the others.
        step: of the newest checkpoint; None at the end of the run.
    """
    from ray import train

    name = LAST if step is None else f"step-{step}"
    if folder is None:
        train.report({"step": step}, checkpoint_dir_name=name)
        return
    with tempfile.TemporaryDirectory(prefix="llmforge-") as place:
        # a copy of links where the disk allows: the run goes on writing meanwhile
        staged = Path(place) / "run"
        shutil.copytree(folder, staged, ignore=_LEFT, copy_function=_linked)
        kept = train.Checkpoint.from_directory(str(staged))
        train.report({"step": step}, checkpoint=kept, checkpoint_dir_name=name)


def bring_back(checkpoint: Any, plan: Plan, folder: Path) -> None:
    """On a node that does not share the disk: the run folder as it was last kept, or a new one."""
    folder.mkdir(parents=True, exist_ok=True)
    if checkpoint is not None:
        with checkpoint.as_directory() as kept:
            shutil.copytree(kept, folder, dirs_exist_ok=True)
    run = RunFolder(folder)
    if not run.plan_file.is_file():
        plan.save(run.plan_file)


def fetch(storage: str, name: str, run: RunFolder) -> None:
    """Into the driver's run folder: what was kept last, where rank 0 wrote it elsewhere.

    Nothing kept (no step was done) leaves the folder as it is.
    """
    from pyarrow import fs  # type: ignore[import-untyped]

    if is_uri(storage):
        system, root = fs.FileSystem.from_uri(storage)
    else:
        system, root = fs.LocalFileSystem(), str(Path(storage).absolute())
    entries = system.get_file_info(fs.FileSelector(f"{root}/{name}", allow_not_found=True))
    folders = {Path(entry.path).name: entry.path for entry in entries if not entry.is_file}
    steps = [int(n.removeprefix("step-")) for n in folders if n.startswith("step-")]
    newest = LAST if LAST in folders else f"step-{max(steps)}" if steps else None
    if newest is None:
        return
    fs.copy_files(
        folders[newest],
        str(run.path),
        source_filesystem=system,
        destination_filesystem=fs.LocalFileSystem(),
    )


def _linked(source: str, target: str) -> None:
    """A hard link, or a copy across file systems; files that are still written are copied."""
    if Path(source).suffix in (".safetensors", ".pt", ".bin"):
        try:
            Path(target).hardlink_to(source)
        except OSError:
            shutil.copy2(source, target)
    else:
        shutil.copy2(source, target)
