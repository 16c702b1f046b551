"""Stopping on request: signals to a worker become a flag, or an exception.

In: signals to the worker process. Out: `StopFlag`, which the training loop looks at once a step,
and `StopRequested`, raised at once in the phases that hold no state worth saving (preparing,
building, evaluating), where nothing looks at a flag.

SIGTERM, SIGINT and the warnings that batch systems send before a job's time is over (SIGUSR1,
SIGUSR2: `sbatch --signal`) mean the same. The flag does not save anything and does not end the
process: the loop and the worker do.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llmforge.run import processes

WARNINGS = (signal.SIGUSR1, signal.SIGUSR2)
"""What a batch system sends some time before it ends a job; however often, it never kills."""

STOPS = (signal.SIGTERM, signal.SIGINT, *WARNINGS)
"""Signals that ask a worker to save and end."""


class StopRequested(KeyboardInterrupt):
    """Somebody asked the run to stop.

    A KeyboardInterrupt, so that libraries that catch every `Exception` let it through.
    """


class StopFlag:
    """Was the run asked to stop?"""

    def __init__(self) -> None:
        self.reason: str | None = None
        """`SIGTERM`, `SIGUSR1`, ..., or another word for who asked; None while nobody has."""
        self._immediate = False

    def __bool__(self) -> bool:
        return self.reason is not None

    def request(self, reason: str) -> None:
        """Ask for a stop; the first reason is kept."""
        self.reason = self.reason or reason

    def check(self) -> None:
        """Raise `StopRequested` if a stop was asked for."""
        if self:
            raise StopRequested(self.reason)

    @contextmanager
    def immediate(self) -> Iterator[None]:
        """Inside, a request raises `StopRequested` where the program stands.

        Raises:
            StopRequested: also at the door, when the request came before.
        """
        before = self._immediate
        self._immediate = True
        try:
            self.check()
            yield
        finally:
            self._immediate = before

    @contextmanager
    def deferred(self) -> Iterator[None]:
        """Inside, a request waits: for the few writes that must not be torn."""
        before = self._immediate
        self._immediate = False
        try:
            yield
        finally:
            self._immediate = before
        if self._immediate:
            self.check()

    def listen(self, *signals: signal.Signals) -> None:
        """Take `STOPS` (or `signals`) over; main thread only."""
        for number in signals or STOPS:
            signal.signal(number, self._on_signal)

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        first = not self
        self.request(signal.Signals(number).name)
        # Raising once is enough: a second signal must not break the clean-up after the first.
        if first and self._immediate:
            raise StopRequested(self.reason)


def stop_with(pid: int, interval: float = 1.0, patience: float = 600.0) -> threading.Thread:
    """Send this process SIGTERM when process `pid` is gone, and SIGKILL `patience` seconds later.

    A worker lives in a session of its own, so nothing else tells it that its driver was killed;
    it would train on, unwatched, with nobody to close its records. A rank that waits within a
    library for another one, which is gone too, never gets to look at a signal.
    """

    def watch() -> None:
        while processes.exists(pid):
            time.sleep(interval)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
        os.kill(os.getpid(), signal.SIGKILL)

    thread = threading.Thread(target=watch, name="watch-driver", daemon=True)
    thread.start()
    return thread
