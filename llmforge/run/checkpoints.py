"""The checkpoints of a run: written whole or not at all, pruned, looked through.

In: the folder that holds `checkpoint-N` folders, and the plan they belong to. Out: `Keeper`, which
a trainer saves through; `scan`, `verify` and what else is done with checkpoints that are there.
A checkpoint is written in `.checkpoint-N.tmp`, sealed and then renamed (`sealing.py`), so a process
killed at any moment leaves the checkpoints before it as they were; older ones go last.

Which one a run goes on from is decided in `resume.py`. No torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from llmforge.plan import Plan
from llmforge.run import sealing

PREFIX = "checkpoint-"
PLAN = "plan.json"
"""The plan that wrote a checkpoint, beside its weights."""

_STAGED, _OLD, _GONE = ".tmp", ".old", ".gone"


@dataclass(frozen=True)
class Checkpoint:
    """One `checkpoint-N` folder."""

    path: Path
    step: int
    """Optimizer steps that lie behind it."""
    fault: str | None = None
    """Why it cannot be resumed from; None for a whole one."""


def scan(folder: Path) -> list[Checkpoint]:
    """Every checkpoint folder, newest first, whole or not; sizes are looked at, not content."""
    found = []
    for path in folder.glob(f"{PREFIX}*") if folder.is_dir() else ():
        step = path.name.removeprefix(PREFIX)
        if path.is_dir() and step.isdecimal():
            found.append(Checkpoint(path, int(step), sealing.fault(path)))
    return sorted(found, key=lambda checkpoint: -checkpoint.step)


def verify(checkpoint: Checkpoint) -> str | None:
    """What is wrong with a checkpoint, every byte of it read; None for a whole one."""
    return sealing.fault(checkpoint.path, thorough=True)


def remove(checkpoint: Checkpoint) -> None:
    """Delete a checkpoint; it loses its name first, so that half of one never looks whole."""
    gone = checkpoint.path.with_name(f".{checkpoint.path.name}{_GONE}")
    shutil.rmtree(gone, ignore_errors=True)
    checkpoint.path.rename(gone)
    shutil.rmtree(gone)


def set_aside(checkpoint: Checkpoint) -> Path:
    """Take a broken checkpoint out of the way, under a name that says so.

    It is kept: what is left of it may be the only copy of some hours' weights.
    """
    aside = checkpoint.path.with_name(f"broken-{checkpoint.path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    return checkpoint.path.rename(aside)


def tidy(folder: Path) -> None:
    """Clear away what a killed process left between two names.

    A checkpoint that was about to be replaced by another of the same step gets its name back.
    """
    for path in sorted(folder.glob(f".{PREFIX}*")):
        name = path.stem.removeprefix(".")
        if path.suffix == _OLD and not (folder / name).exists():
            path.rename(folder / name)
        elif path.suffix in (_STAGED, _OLD, _GONE):
            shutil.rmtree(path)


def prune(folder: Path, keep: int, spared: Collection[int] = ()) -> list[int]:
    """Remove all checkpoints but the newest `keep` whole ones and those of the steps `spared`.

    Returns:
        The steps that were removed.
    """
    whole = [found for found in scan(folder) if not found.fault]
    old = [found for found in whole[max(1, keep) :] if found.step not in spared]
    for found in old:
        remove(found)
    return [found.step for found in old]


class Keeper:
    """Where a trainer's checkpoints go.

    The main process calls `begin`, all of them write into `staging(step)/checkpoint-N`, and when
    all are through the main process calls `finish`.
    """

    def __init__(self, folder: Path, plan: Plan) -> None:
        self.folder = folder
        self._plan = plan
        self._keep = plan.spec.checkpoint.keep
        self.max_shard_size = plan.spec.checkpoint.max_shard_size
        """Largest weight file, such as `5GB`."""

    def final(self, step: int) -> Path:
        """The checkpoint's folder when it is whole."""
        return self.folder / f"{PREFIX}{step}"

    def staging(self, step: int) -> Path:
        """The folder in which `checkpoint-N` is written; the same on all ranks."""
        return self.folder / f".{PREFIX}{step}{_STAGED}"

    def begin(self, step: int) -> None:
        """An empty place to write to."""
        shutil.rmtree(self.staging(step), ignore_errors=True)
        self.staging(step).mkdir(parents=True)

    def finish(self, step: int, best: int | None = None) -> None:
        """Seal what was written, give it its name, then prune; the best one is never pruned.

        Raises:
            OSError: it could not be flushed or renamed; earlier checkpoints are as they were.
        """
        staged = self.staging(step) / self.final(step).name
        self._plan.save(staged / PLAN)
        sealing.seal(
            staged,
            {
                "step": step,
                "best": best,
                "run_id": self._plan.run_id,
                "fingerprint": self._plan.fingerprint,
                "stages": self._plan.stages,
                "llmforge": self._plan.llmforge,
            },
        )
        sealing.publish(staged, self.final(step))
        shutil.rmtree(self.staging(step))
        prune(self.folder, self._keep, {step} if best is None else {step, best})

    def newest(self, step: int) -> str | None:
        """The file of a staged checkpoint that was written to last.

        Where a library's error does not name a file, this is the one it stumbled over.
        """
        files = [path for path in self.staging(step).rglob("*") if path.is_file()]
        found = max(files, key=lambda path: path.stat().st_mtime_ns, default=None)
        return found.name if found else None

    def abandon(self, step: int) -> None:
        """Throw away what was written of a checkpoint that failed; a full disk has room again."""
        shutil.rmtree(self.staging(step), ignore_errors=True)
