"""SHA-256 of files, remembered by path, size and modification time.

In: paths. Out: hex digests. Hashing a large checkpoint once costs seconds; the memory of it lives
in the run's cache folder and is only trusted while size, time and inode are unchanged.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_REMEMBER_FROM = 16 * 2**20
"""Smaller files are hashed faster than a note about them is found."""


_EDGE = 2**20


def stat_key(path: Path) -> str:
    """Changes whenever the file at `path` was rewritten or replaced."""
    stat = path.stat()
    return f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}|{stat.st_ino}"


def remembered(cache: Path, name: str, key: str) -> Any:
    """What was remembered under `key` in the cache folder's file `name`; None if nothing."""
    return _read(cache / name).get(key)


def remember(cache: Path, name: str, key: str, value: Any) -> None:
    """Add one entry; a cache that cannot be written costs time later, never correctness."""
    known = dict(_read(cache / name))
    known[key] = value
    try:
        cache.mkdir(parents=True, exist_ok=True)
        staged = cache / f".{name}.{os.getpid()}.tmp"
        staged.write_text(json.dumps(known), encoding="utf-8")
        staged.replace(cache / name)
    except OSError:
        return


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def edge_digest(path: Path) -> str:
    """SHA-256 of a file's size, first and last MiB: for files too large to read ahead, hex."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_EDGE))
        file.seek(max(0, size - _EDGE))
        digest.update(file.read(_EDGE))
    return digest.hexdigest()


def remember_digest(path: Path, digest: str, cache: Path) -> None:
    """Keep the digest of a large file that was just written, so that nobody reads it again."""
    if path.stat().st_size >= _REMEMBER_FROM:
        remember(cache, "digests.json", stat_key(path), digest)


def file_digest(path: Path, cache: Path) -> str:
    """SHA-256 of a file's bytes, hex."""
    large = path.stat().st_size >= _REMEMBER_FROM
    key = stat_key(path) if large else ""
    if large and isinstance(known := remembered(cache, "digests.json", key), str):
        return known
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if large:
        remember(cache, "digests.json", key, digest)
    return digest
