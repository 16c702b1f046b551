"""The driver's side of resident workers: one process that runs trials one after another.

In: plans that are run while `kept()` is open. Out: for a plan that may share (`residency.py`), its
trial in the resident worker, which looks to `launch.py` like the process of its own that it would
else have. At most one resident is there, since it holds a base on the device: another base, or a
trial that must have a process of its own, ends it first.

What goes over the wire (a socket pair, lines of JSON): to the resident a run folder, with the
descriptor that holds it; back, the exit code, and why this process must run no other trial.

This module imports no torch; the other end is `resident.py`.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Protocol

from llmforge.plan import Plan
from llmforge.run.residency import PER_TRIAL, own_process, share_key

LEAVING = 30.0
"""Seconds that a resident gets to end by itself."""

_LOOKING = 0.5
"""Seconds between two looks whether the process is still there: its children may hold the wire."""


class Started(Protocol):
    """A worker of one run: a process of its own, or a trial in a resident one."""

    pid: int

    def poll(self) -> int | None:
        """Exit code, or None."""

    def wait(self, timeout: float | None = None) -> int:
        """Exit code, as soon as there is one."""


class Resident:
    """A resident process."""

    def __init__(self, key: str, environment: Mapping[str, str], quiet: bool) -> None:
        self.key = key
        self.wire, far = socket.socketpair()
        with far:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "llmforge.run.resident", str(far.fileno())],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL if quiet else None,
                stderr=subprocess.DEVNULL if quiet else None,
                start_new_session=True,
                pass_fds=(far.fileno(),),
            )

    def begin(self, folder: Path, variables: Mapping[str, str], lock: int) -> ResidentTrial:
        """Start a trial.

        Raises:
            OSError: the process is gone.
        """
        told = {"folder": str(folder), "variables": dict(variables)}
        socket.send_fds(self.wire, [json.dumps(told).encode() + b"\n"], [lock])
        return ResidentTrial(self)

    @property
    def is_alive(self) -> bool:
        """Can it take another trial?"""
        return self.process.poll() is None

    def end(self) -> None:
        """Let it go: it ends when the wire is closed."""
        self.wire.close()
        try:
            self.process.wait(LEAVING)
        except subprocess.TimeoutExpired:
            self.kill()
        self.kill()  # what it has started

    def kill(self) -> None:
        """End the process and all that it has started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
        self.process.wait()


class ResidentTrial:
    """One trial in a resident process; to be waited for like a process."""

    def __init__(self, resident: Resident) -> None:
        self.resident = resident
        self.pid = resident.process.pid
        self.stays = False
        """The process takes another trial."""
        self.why: str | None = None
        """Why it does not."""
        self._code: int | None = None
        self._heard = b""

    def poll(self) -> int | None:
        """Exit code of the trial, None while it runs."""
        if self._code is None:
            self._look(0.0)
        return self._code

    def wait(self, timeout: float | None = None) -> int:
        """Exit code; of a process that was killed the negative signal.

        Raises:
            subprocess.TimeoutExpired: it runs for longer than `timeout` seconds.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._code is None:
            left = _LOOKING if deadline is None else deadline - time.monotonic()
            self._look(max(0.0, min(_LOOKING, left)))
            if self._code is None and deadline is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(self.resident.process.args, timeout or 0.0)
        return self._code

    def _look(self, patience: float) -> None:
        process, wire = self.resident.process, self.resident.wire
        gone = process.poll()
        if select.select([wire], [], [], patience)[0]:
            try:
                more = wire.recv(65536)
            except ConnectionError:
                more = b""
            self._heard += more
            if self._heard.endswith(b"\n"):
                told = json.loads(self._heard)
                self._code, self.why = int(told["code"]), told["why"]
                self.stays = self.why is None
            elif not more:
                self._code = process.wait()
        elif gone is not None:
            self._code = gone


class Residents:
    """The resident of a driver, at most one."""

    def __init__(self) -> None:
        self._resident: Resident | None = None
        self.started = 0
        """Processes that were started."""

    def trial(
        self, plan: Plan, folder: Path, environment: Mapping[str, str], lock: int, quiet: bool
    ) -> ResidentTrial | None:
        """Start a run's worker in the resident; None for one that must have its own process."""
        if own_process(plan) is not None:
            self.close()
            return None
        key = share_key(plan, {**environment, "quiet": str(quiet)})
        if self._resident and (self._resident.key != key or not self._resident.is_alive):
            self.close()
        if self._resident is None:
            self._resident = Resident(key, environment, quiet)
            self.started += 1
        variables = {name: environment.get(name, "") for name in PER_TRIAL}
        try:
            return self._resident.begin(folder, variables, lock)
        except OSError:  # it was killed just now; the trial gets a process of its own
            self.close()
            return None

    def close(self) -> None:
        """End the resident."""
        if self._resident is not None:
            self._resident.end()
            self._resident = None


_open: ContextVar[Residents | None] = ContextVar("llmforge_residents", default=None)


@contextmanager
def kept() -> Iterator[Residents]:
    """Inside, runs that this thread starts share a resident worker where they may."""
    residents = Residents()
    token = _open.set(residents)
    try:
        yield residents
    finally:
        _open.reset(token)
        residents.close()


def trial_of(
    plan: Plan, folder: Path, stage: str, environment: Mapping[str, str], lock: int, quiet: bool
) -> ResidentTrial | None:
    """A run's worker in the resident of this thread, where there is one and the run may share."""
    residents = _open.get()
    if residents is None or stage != "train":
        return None
    return residents.trial(plan, folder, environment, lock, quiet)


def is_over(worker: Started) -> bool:
    """Is the worker's process to be ended with its run?"""
    return not isinstance(worker, ResidentTrial) or not worker.stays
