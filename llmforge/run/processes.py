"""Is a process there, and is it still the same one?

In: process ids. Out: answers from the kernel, `/proc` where there is one. A zombie (dead, not yet
waited for by its parent) counts as gone.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
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


def die_with_parent() -> None:
    """In a child, before it becomes another program: be killed when the parent dies (Linux).

    For processes whose parent alone can end them rightly: without it they would work on, unwatched.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def shielded(command: Sequence[str]) -> int:
    """Run a command in a session of its own and wait; returns its exit code.

    A stop that is meant for this process's whole group reaches the command as one SIGTERM, and
    what the command starts not at all. It dies with this process.
    """
    child = subprocess.Popen(
        list(command),
        start_new_session=True,
        preexec_fn=die_with_parent,
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: child.send_signal(signal.SIGTERM))
    return child.wait()


_PR_SET_PDEATHSIG = 1
"""From `linux/prctl.h`."""
