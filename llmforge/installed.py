"""What is installed, read from package metadata: nothing is imported for it.

In: names of packages, an entry-point group. Out: versions, entry points. Reading them costs ten
milliseconds, and the points of a sweep ask again and again, so answers are kept until a folder of
the import path changes: installing or removing a package changes its folder.
"""

from __future__ import annotations

import sys
from functools import lru_cache
from importlib import metadata
from pathlib import Path

_Stamp = tuple[tuple[str, int], ...]


def installed_version(package: str) -> str | None:
    """Version of a package; None when it is not installed."""
    return _version(package, _stamp())


def entry_points(group: str) -> tuple[metadata.EntryPoint, ...]:
    """What installed packages offer under a group."""
    return _entry_points(group, _stamp())


def _stamp() -> _Stamp:
    """The folders of the import path, and when each was last changed."""
    found = []
    for folder in sys.path:
        try:
            found.append((folder, Path(folder or ".").stat().st_mtime_ns))
        except OSError:  # a folder that is not there holds no package
            found.append((folder, 0))
    return tuple(found)


@lru_cache(maxsize=256)
def _version(package: str, _stamp: _Stamp) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


@lru_cache(maxsize=16)
def _entry_points(group: str, _stamp: _Stamp) -> tuple[metadata.EntryPoint, ...]:
    return tuple(metadata.entry_points(group=group))
