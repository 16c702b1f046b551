"""Room on a file system, looked up without writing to it.

In: a folder that need not exist yet. Out: `Space`, or None where the file system does not tell.
What will be written there is foretold elsewhere (`compiler/memory/disk.py`).
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Space:
    """Bytes of the file system that a folder lies on."""

    total: int
    free: int
    """What this user may still write."""


def space_of(folder: Path) -> Space | None:
    """Room where `folder` is or will be made: that of the nearest folder above that exists.

    Some network file systems report no size at all; they count as unknown.
    """
    here = folder.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    try:
        usage = shutil.disk_usage(here)
    except OSError:
        return None  # the run says so itself, when it cannot write there
    return Space(usage.total, usage.free) if usage.total else None
