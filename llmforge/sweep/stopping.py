"""Asking a sweep to stop: how Ctrl-C in the driver reaches trials, wherever a launcher put them.

In: a sweep's folder. Out: `asked_to_stop` for the driver, `wish` for the jobs. The way between them
is `stopped.json` in the folder, which also reaches jobs in other sessions and on other machines,
where no signal does. Signals of the terminal are kept from the jobs: a pool whose idle process dies
of Ctrl-C kills the others, and their trials could not save.
"""

from __future__ import annotations

import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from llmforge import render
from llmforge.sweep.folder import SweepFolder

STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a driver to stop. The second time, running trials are killed."""

_LOOK = 0.2
"""Seconds between two looks for a signal that is kept from everybody else."""


class Asked:
    """Has somebody asked this driver to stop?"""

    def __init__(self, folder: SweepFolder) -> None:
        self.by: str | None = None
        """Name of the first signal."""
        self._folder = folder
        self._done = threading.Event()

    def hear(self, number: int) -> None:
        """A signal came: running trials save and end; the second time they are killed."""
        name = signal.Signals(number).name
        again = self.by is not None
        self.by = self.by or name
        self._folder.stop(
            {
                "code": None,
                "message": f"stopped by {self.by}; the same command goes on",
                "interrupted": "SIGKILL" if again else self.by,
            }
        )
        said = "killing them" if again else "running trials save and end; once more kills them"
        render.emit(f"{name}: {said}", sys.stderr)

    def listen(self) -> None:
        """Wait for SIGINT, which is blocked in all threads, until `end`."""
        while not self._done.is_set():
            came = signal.sigtimedwait({signal.SIGINT}, _LOOK)
            if came is not None:
                self.hear(came.si_signo)

    def end(self) -> None:
        """Listen no more."""
        self._done.set()


@contextmanager
def asked_to_stop(asked: Asked) -> Iterator[None]:
    """Hear stop signals while jobs are launched, instead of being ended by them.

    SIGINT is blocked meanwhile, and processes that are started inherit that: Ctrl-C at the terminal
    goes to the driver alone. The other signals are not, since jobs are ended by them.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # signals are the business of whoever owns the main thread
        return

    def heard(number: int, _frame: FrameType | None) -> None:
        asked.hear(number)

    handlers = {number: signal.getsignal(number) for number in STOPS}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    listener = threading.Thread(target=asked.listen, name="sweep-stop", daemon=True)
    listener.start()
    try:
        for number, handler in handlers.items():
            if handler is not signal.SIG_IGN:  # `nohup` ignores SIGHUP for a reason
                signal.signal(number, heard)
        yield
    finally:
        asked.end()
        listener.join()
        for number, handler in handlers.items():
            signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def wish(sweep: Path) -> int | None:
    """What a job's trial is to be told: SIGTERM to save and end, SIGKILL, or nothing.

    A sweep that was stopped for another reason than a signal lets running trials go on.
    """
    found = stopped(sweep)
    if found is None or not found.get("interrupted"):
        return None
    insists = found["interrupted"] == signal.SIGKILL.name
    return int(signal.SIGKILL if insists else signal.SIGTERM)


def stopped(sweep: Path) -> dict[str, object] | None:
    """Why no further trial of the sweep is started; None while they may."""
    try:
        text = SweepFolder(sweep).stopped_file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    found: dict[str, object] = json.loads(text)
    return found
