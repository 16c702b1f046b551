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
from llmforge.run import checkpoints, sealing
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

    system, root = _opened(storage)
    kept = _newest(system, f"{root}/{name}", run)
    if kept is not None:
        here = fs.LocalFileSystem()
        fs.copy_files(kept, str(run.path), source_filesystem=system, destination_filesystem=here)


def forget(storage: str, name: str) -> None:
    """Remove what was kept under a name; nothing kept is no fault."""
    system, root = _opened(storage)
    if _below(system, f"{root}/{name}"):
        system.delete_dir(f"{root}/{name}")


def _opened(storage: str) -> tuple[Any, str]:
    """The file system of a storage, and its path there."""
    from pyarrow import fs

    if is_uri(storage):
        system, root = fs.FileSystem.from_uri(storage)
        return system, str(root)
    return fs.LocalFileSystem(), str(Path(storage).absolute())


def _below(system: Any, path: str) -> set[str]:
    """Names of what lies in a folder; none where there is no such folder."""
    from pyarrow import fs

    entries = system.get_file_info(fs.FileSelector(path, allow_not_found=True))
    return {Path(entry.path).name for entry in entries}


def _newest(system: Any, root: str, run: RunFolder) -> str | None:
    """The folder that was kept last, by the checkpoints in it: storages keep no times of folders.

    A run that was stopped is kept as `finished` too, and goes on later; only one with a final model
    is over. A step whose checkpoint has no seal was not copied whole.
    """
    steps: dict[str, int] = {}
    for name in _below(system, root):
        folder = f"{root}/{name}"
        saved = f"{folder}/{run.checkpoint_folder.name}"
        if name == LAST and run.manifest.name in _below(system, folder):
            return folder
        sealed = [
            int(known.removeprefix(checkpoints.PREFIX))
            for known in _below(system, saved)
            if known.removeprefix(checkpoints.PREFIX).isdecimal()
            and sealing.MANIFEST in _below(system, f"{saved}/{known}")
        ]
        if name == LAST or sealed:
            steps[folder] = max(sealed, default=0)
    # what was kept at a stop is later than the same step's own folder
    return max(steps, key=lambda known: (steps[known], known.endswith(f"/{LAST}")), default=None)


def _linked(source: str, target: str) -> None:
    """A hard link, or a copy across file systems; files that are still written are copied."""
    if Path(source).suffix in (".safetensors", ".pt", ".bin"):
        try:
            Path(target).hardlink_to(source)
        except OSError:
            shutil.copy2(source, target)
    else:
        shutil.copy2(source, target)
