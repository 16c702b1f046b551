"""Where a run stands: the statuses, and what `status.json` holds.

In: nothing. Out: `Status` and `StatusRecord`; `folder.py` reads and writes them.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from llmforge.run import processes


class Status(StrEnum):
    """Where a run stands."""

    CREATED = "CREATED"
    """The folder is there, nothing has run."""
    RUNNING = "RUNNING"
    INTERRUPTED = "INTERRUPTED"
    """Stopped on request, its state saved; the same command continues."""
    FAILED = "FAILED"
    PRUNED = "PRUNED"
    """Ended before its last step by the sweep it is a trial of, its state saved."""
    FINISHED = "FINISHED"


@dataclass(frozen=True)
class StatusRecord:
    """What `status.json` holds."""

    status: Status
    updated: str = ""
    """ISO 8601, UTC."""
    pid: int | None = None
    """Process of rank 0 while RUNNING."""
    born: int | None = None
    """Its start time in kernel ticks: tells it from a later process of the same number."""
    host: str | None = None
    stage: str | None = None
    attempts: int = 0
    """How many times a worker was started."""
    reason: str | None = None
    """One line: why it failed or stopped."""
    code: str | None = None
    """`LF8xx` of a failure."""
    diagnostic: Mapping[str, Any] | None = None
    """The failure in full: message, key, origins, notes, hint."""
    warnings: tuple[Mapping[str, Any], ...] = field(default=())
    """Diagnostics that did not stop the run."""

    def to_dict(self) -> dict[str, Any]:
        """JSON form, as it stands in the file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> StatusRecord:
        """Fields a later version added are passed over."""
        known = {key: data[key] for key in cls.__dataclass_fields__ if key in data}
        known |= {"status": Status(data["status"]), "warnings": tuple(data.get("warnings", ()))}
        return cls(**known)


def timestamp() -> str:
    """Now, ISO 8601, UTC."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def is_alive(record: StatusRecord) -> bool:
    """Is the process that wrote RUNNING still there? On another host: assumed so."""
    if record.pid is None or (record.host and record.host != platform.node()):
        return True
    return processes.exists(record.pid) and record.born == processes.born(record.pid)
