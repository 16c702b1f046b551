"""One at a time makes something at a place: the lock, and the folder that it is made in.

In: the folder or file that is to be made. Out: a working folder beside it, held until it is made or
was given up; or `PlaceBusy`, which names the process that holds it (LF949). Two runs with the same
`-o` never write into one another's half-made model.

The lock is a file beside the place. It belongs to the process, so one that was killed holds
nothing; and it is there only while it is held.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PATIENCE = 1.0
"""Seconds to wait: somebody may only be asking who holds it."""
_PAUSE = 0.05


class PlaceBusy(RuntimeError):
    """Another process makes something at the place."""

    code = "LF949"

    def __init__(self, place: Path, process: str, key: str | None) -> None:
        """Args: the place; who holds it; the setting that names the place, if one does."""
        super().__init__(f"{place} is being made by {process}")
        self.key = key
        self.hint = f"{key}=<another folder>" if key else "-o <another file>"
        self.notes = ("what it makes there now is kept, and this was not begun",)


def holder(place: Path) -> str | None:
    """Who makes something at a place now: `process 1234`; None for nobody."""
    try:
        handle = os.open(_lock_file(place), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _named(handle)
    finally:
        os.close(handle)
    return None  # of a process that was killed


@contextmanager
def workplace(place: Path, key: str | None = None) -> Iterator[Path]:
    """Hold a place; yields an empty folder beside it, gone when the place is let go.

    What earlier attempts left is cleared away first.

    Args:
        place: folder or file that is to be made.
        key: the setting that names it; None where none does.

    Raises:
        PlaceBusy: another process holds it.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    work = scratch(place)
    with _held(place, key):
        shutil.rmtree(work, ignore_errors=True)
        _settle(place)
        work.mkdir()
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


def scratch(place: Path) -> Path:
    """The folder beside a place that it is made in."""
    return place.with_name(f".{place.name}.making")


def clear(place: Path) -> None:
    """Remove what a killed process left beside a place; nothing while another holds it."""
    with suppress(PlaceBusy), _held(place, None):
        shutil.rmtree(scratch(place), ignore_errors=True)


def _settle(place: Path) -> None:
    for old in sorted(place.parent.glob(f".{place.name}.*.old")):
        if place.exists():
            shutil.rmtree(old, ignore_errors=True)
        else:  # killed between the two renames: the earlier one is whole
            old.rename(place)


@contextmanager
def _held(place: Path, key: str | None) -> Iterator[None]:
    file = _lock_file(place)
    handle = _taken(file, place, key)
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, str(os.getpid()).encode("ascii"), 0)
        yield
    finally:
        # while it is held: who opened it meanwhile sees that it is gone, and makes another
        file.unlink(missing_ok=True)
        os.close(handle)


def _taken(file: Path, place: Path, key: str | None) -> int:
    deadline = time.monotonic() + _PATIENCE
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is(file, handle):
                return handle
        except BlockingIOError as error:
            if time.monotonic() >= deadline:
                named = _named(handle)
                os.close(handle)
                raise PlaceBusy(place, named, key) from error
            time.sleep(_PAUSE)
        os.close(handle)


def _is(file: Path, handle: int) -> bool:
    """Is the open file still the one of that name?"""
    try:
        there = file.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(handle))


def _named(handle: int) -> str:
    pid = os.pread(handle, 32, 0).decode("ascii", "replace").strip()
    return f"process {pid}" if pid else "another process"


def _lock_file(place: Path) -> Path:
    return place.with_name(f".{place.name}.making.lock")
