"""What the training loop asks of a tracker, and the tracker that does nothing.

In: numbers, files, an ending. Out: `Tracker`, the protocol every tracker fulfils. Methods return
soon and raise nothing: a tracker's trouble is a warning (LF807), never the end of a run. The
journal of metrics is written by the run itself; a tracker reads it from there.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status


@runtime_checkable
class Tracker(Protocol):
    """Records one run somewhere besides its folder."""

    def start(self, plan: Plan, run: RunFolder) -> None:
        """Open the record, or go on with the one the folder remembers."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """Numbers that were just written to the journal; called on the step path."""

    def artifact(self, path: Path, name: str) -> None:
        """Keep a copy of a file under `name` (a path with `/`)."""

    def finish(self, status: Status, result: Mapping[str, Any] | None) -> None:
        """Send what is pending, for a bounded time, and close the record."""

    def describe(self) -> str:
        """Where a person finds the record; empty when there is none."""


class NullTracker:
    """Only the run folder."""

    def start(self, plan: Plan, run: RunFolder) -> None:
        """Nothing to open."""

    def metrics(self, values: Mapping[str, float], step: int) -> None:
        """The journal has them."""

    def artifact(self, path: Path, name: str) -> None:
        """The folder has it."""

    def finish(self, status: Status, result: Mapping[str, Any] | None) -> None:
        """Nothing to close."""

    def describe(self) -> str:
        """Nowhere."""
        return ""
