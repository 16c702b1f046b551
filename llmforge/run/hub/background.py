"""Uploads beside a training: each checkpoint as it is saved, one at a time.

In: steps at which a checkpoint was saved. Out: entries in `push.json`, warnings for the ones that
failed. The parcel is made at once, by links, so that the checkpoint may be pruned; sending happens
in a thread, which sleeps on the network most of the time. A checkpoint that comes while another is
on its way waits; a newer one takes its place, since the hub is to hold the newest.

A process that ends takes the thread with it: half an upload changes nothing on the hub.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run.checkpoints import PREFIX, Checkpoint
from llmforge.run.folder import RunFolder
from llmforge.run.hub import parcel as parcels
from llmforge.run.hub.order import Order
from llmforge.run.hub.pushing import deliver, warning

Say = Callable[[str], None]


@dataclass(frozen=True)
class _Waiting:
    source: str
    parcel: Path


class BackgroundPush:
    """Sends checkpoints while training goes on."""

    def __init__(self, plan: Plan, run: RunFolder, order: Order, say: Say) -> None:
        self._plan, self._run, self._order, self._say = plan, run, order, say
        self._change = threading.Condition()
        self._next: _Waiting | None = None
        self._busy = False
        self._closed = False
        self._thread: threading.Thread | None = None
        self.warnings: list[Diagnostic] = []
        """What went wrong so far; one a kind, since an outage fails every checkpoint alike."""

    def saved(self, step: int) -> None:
        """A checkpoint of this step is whole; never raises."""
        path = self._run.checkpoint_folder / f"{PREFIX}{step}"
        checkpoint = Checkpoint(path, step)
        state = checkpoint if self._order.what == "checkpoint" else None
        try:
            parcel = parcels.pack(self._plan, self._run, self._order, path, state)
        except Exception as error:  # training does not depend on it
            found = Diagnostic(
                "LF901",
                f"{path.name} could not be made ready for the hub: {type(error).__name__}: {error}",
                severity=Severity.WARNING,
                key="hub.when",
            )
            self._warn(found)
            return
        with self._change:
            old, self._next = self._next, _Waiting(path.name, parcel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="hub", daemon=True)
                self._thread.start()
            self._change.notify_all()
        if old is not None:
            parcels.discard(old.parcel)

    def close(self, patience: float) -> bool:
        """No more comes: what still waits is dropped, as the final model comes next.

        Returns:
            Whether the upload that was under way ended within `patience` seconds.
        """
        with self._change:
            self._closed = True
            old, self._next = self._next, None
            self._change.notify_all()
            ended = self._change.wait_for(lambda: not self._busy, patience)
        if old is not None:
            parcels.discard(old.parcel)
        return ended

    def _work(self) -> None:
        while (waiting := self._take()) is not None:
            found = self._send(waiting)
            with self._change:
                self._busy = False
                self._change.notify_all()
            if found is not None:
                self._warn(found)

    def _take(self) -> _Waiting | None:
        with self._change:
            self._change.wait_for(lambda: self._next is not None or self._closed)
            taken, self._next = self._next, None
            self._busy = taken is not None
            return taken

    def _send(self, waiting: _Waiting) -> Diagnostic | None:
        entry = deliver(self._plan, self._run, self._order, waiting.source, lambda: waiting.parcel)
        if entry.error is None:
            self._say(f"{waiting.source} is on the hub: {entry.repository}@{str(entry.commit)[:8]}")
        else:
            # without a token the parcel was never taken up
            parcels.discard(waiting.parcel)
        return warning(entry)

    def _warn(self, found: Diagnostic) -> None:
        if all(known.code != found.code for known in self.warnings):
            self.warnings.append(found)
            self._run.warn(found.to_dict())
            self._say(f"warning[{found.code}]: {found.message}")
