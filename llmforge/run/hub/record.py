"""What became of the uploads of a run: `push.json` in its folder.

In: one entry per upload that was tried. Out: the list of them, newest last. Nothing decides by it:
whether something is there already is asked of the hub.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass, field
from typing import Any

from llmforge.run.folder import RunFolder
from llmforge.run.status import timestamp

NAME = "push.json"
_KEPT = 200
"""Entries kept: a long run with many checkpoints need not remember all of them."""

_lock = threading.Lock()
"""The background's thread and the main one write to the same file."""


@dataclass(frozen=True)
class Entry:
    """One upload."""

    what: str
    source: str
    """`model` for the final one, else the checkpoint's folder name."""
    repository: str
    revision: str
    private: bool
    commit: str | None = None
    """The commit it stands in; None when it failed."""
    url: str | None = None
    files: int = 0
    bytes: int = 0
    """Of the parcel; what the hub had already was not sent."""
    unchanged: bool = False
    """All of it was there before; nothing was sent."""
    error: dict[str, Any] | None = None
    """Diagnostic of a failed upload."""
    at: str = field(default_factory=timestamp)


def remember(run: RunFolder, entry: Entry) -> None:
    """Add an entry."""
    with _lock:
        known = entries(run)
        run.write_json(NAME, {"pushes": [*known, asdict(entry)][-_KEPT:]})


def entries(run: RunFolder) -> list[dict[str, Any]]:
    """All that are remembered, newest last."""
    return list((run.read_json(NAME) or {}).get("pushes", []))
