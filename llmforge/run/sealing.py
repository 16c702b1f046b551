"""A folder that is whole or not there: written beside, flushed, sealed by a manifest, renamed.

In: a folder whose files are complete. Out: `checkpoint.json` in it, with the size and SHA-256 of
every other file and a digest of itself; and the folder under its final name. Reading a seal says
what is wrong with a folder: by sizes in no time, by digests as fast as the disk reads.

What the folder holds is its owner's business (`checkpoints.py`).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MANIFEST = "checkpoint.json"
"""Written last; a folder without it was never finished."""

_READERS = 8
"""Files digested at once: hashing leaves Python's lock, and one thread is slower than a disk."""


class BrokenSeal(ValueError):
    """A folder is not what its manifest says; the message says in what."""


def seal(folder: Path, facts: Mapping[str, Any]) -> None:
    """Flush every file to the disk and write the manifest.

    Args:
        folder: all files in it are complete.
        facts: what the manifest says beside sizes and digests; JSON.

    Raises:
        OSError: a file could not be flushed, read or written.
    """
    (folder / MANIFEST).unlink(missing_ok=True)
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    names = [path.relative_to(folder).as_posix() for path in paths]
    with ThreadPoolExecutor(_READERS) as pool:
        files = dict(zip(names, pool.map(_flushed, paths), strict=True))
    content = {**facts, "files": files}
    manifest = folder / MANIFEST
    manifest.write_text(_text(content), encoding="utf-8")
    _flushed(manifest)
    for path in (*(path for path in folder.rglob("*") if path.is_dir()), folder):
        flush(path)


def _flushed(path: Path) -> dict[str, Any]:
    try:
        flush(path)
    except OSError as error:
        # the call knows a descriptor only
        raise OSError(error.errno, error.strerror, str(path)) from error
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


def flush(path: Path) -> None:
    """Have a file or folder written to the disk itself."""
    from llmforge.build.prepared import sync  # imported late: `run` starts without `build`

    sync(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _text(content: Mapping[str, Any]) -> str:
    """The manifest's one and only spelling, so that no changed byte can go unseen."""
    body = json.dumps(content, sort_keys=True, ensure_ascii=True)
    digest = hashlib.sha256(body.encode()).hexdigest()
    whole = {"content": content, "seal": digest}
    return json.dumps(whole, indent=1, sort_keys=True, ensure_ascii=True) + "\n"


def publish(staged: Path, final: Path) -> None:
    """Give a sealed folder its name; a folder of that name goes when the new one stands."""
    old = final.with_name(f".{final.name}.old")
    if final.exists():
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
    staged.rename(final)
    flush(final.parent)
    shutil.rmtree(old, ignore_errors=True)


def facts(folder: Path) -> dict[str, Any]:
    """What the manifest says, `files` included.

    Raises:
        BrokenSeal: there is no manifest, or it is not as it was written.
    """
    try:
        text = (folder / MANIFEST).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BrokenSeal(f"{MANIFEST} is missing") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BrokenSeal(f"{MANIFEST} cannot be read: {error}") from error
    try:
        content = json.loads(text)["content"]
        whole = isinstance(content["files"], dict) and text == _text(content)
    except (ValueError, KeyError, TypeError) as error:
        raise BrokenSeal(f"{MANIFEST} is damaged") from error
    if not whole:
        raise BrokenSeal(f"{MANIFEST} is damaged")
    found: dict[str, Any] = content
    return found


def fault(folder: Path, thorough: bool = False) -> str | None:
    """What is wrong with a sealed folder, or None.

    Args:
        folder: to look at.
        thorough: read every byte and compare digests, too; otherwise sizes only.
    """
    try:
        files = facts(folder)["files"]
    except BrokenSeal as broken:
        return str(broken)
    for name, entry in files.items():
        if found := _size_fault(folder / name, name, int(entry["bytes"])):
            return found
    if not thorough:
        return None
    with ThreadPoolExecutor(_READERS) as pool:
        found_faults = pool.map(lambda pair: _digest_fault(folder / pair[0], *pair), files.items())
        return next(filter(None, found_faults), None)


def _size_fault(path: Path, name: str, expected: int) -> str | None:
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        return f"{name} is missing"
    except OSError as error:
        return f"{name} cannot be read: {error}"
    if size != expected:
        return f"{name} is cut short" if size < expected else f"{name} is too long"
    return None


def _digest_fault(path: Path, name: str, entry: Mapping[str, Any]) -> str | None:
    try:
        return None if _sha256(path) == entry["sha256"] else f"{name} is damaged"
    except OSError as error:
        return f"{name} cannot be read: {error}"
