"""Is a process there, and is it still the same one?

In: process ids. Out: answers from the kernel, `/proc` where there is one. A zombie (dead, not yet
waited for by its parent) counts as gone.
"""

from __future__ import annotations

import os
from pathlib import Path


def exists(pid: int) -> bool:
    """Is the process alive?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # somebody else's, but there
    fields = _stat(pid)
    return not fields or fields[0] not in "ZX"


def born(pid: int) -> int | None:
    """Start time in kernel ticks since boot; None where the kernel does not tell.

    Together with the id it names one process for good: ids are used again.
    """
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _stat(pid: int) -> list[str]:
    """Fields of `/proc/<pid>/stat` after the program's name: state first, start time twentieth."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return []
    # the name stands in brackets and may itself hold brackets and blanks
    return text.rpartition(")")[2].split()
