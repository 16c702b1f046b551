"""A resident worker: `python -m llmforge.run.resident DESCRIPTOR`.

In: over the socket of that descriptor, run folders, one after another (see `residents.py`). Out:
for each what `worker.py` does in a process of its own, and its exit code over the socket. The
libraries stay imported and the frozen base stays loaded (`build/bases.py`); everything else that
belongs to one run begins anew: its log, signals, environment, random numbers, settings of torch,
and the memory is given back (`build/clearing.py`).

A process that may not be as it was takes no other trial: after a stop, after a failure that was not
foreseen (out of memory, a fault on the device), and when something could not be put back.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from llmforge.run import environment, worker
from llmforge.run.endings import EXIT_STOPPED
from llmforge.run.folder import RunFolder
from llmforge.run.signals import STOPS, StopFlag, stop_with

if TYPE_CHECKING:
    from llmforge.build.clearing import Slate


def main(argv: list[str]) -> int:
    """See the module."""
    wire = socket.socket(fileno=int(argv[0]))
    wire.set_inheritable(False)
    listen_idly()
    if driver := os.environ.get(environment.DRIVER_PID):
        stop_with(int(driver))
    outputs = os.dup(1), os.dup(2)
    slate = clean_slate()
    while (request := received(wire)) is not None:
        told, lock = request
        code, why = run_trial(told, slate)
        for number, output in enumerate(outputs, 1):
            os.dup2(output, number)
        os.close(lock)
        listen_idly()
        wire.sendall(json.dumps({"code": code, "why": why}).encode() + b"\n")
        if why is not None:
            break
    return 0


def clean_slate() -> Slate | None:
    """Import the libraries; None when that fails."""
    try:
        from llmforge.build import parts, trainer  # noqa: F401 - imported before the first trial
        from llmforge.build.bases import open_shelf
        from llmforge.build.clearing import Slate
    except Exception:
        # the first trial meets the same fault, and tells it in its log and its folder
        return None
    return Slate(open_shelf())


def received(wire: socket.socket) -> tuple[dict[str, Any], int] | None:
    """The next run, and the descriptor that holds its folder; None when the driver is done."""
    text = b""
    lock = -1
    while not text.endswith(b"\n"):
        more, descriptors, _, _ = socket.recv_fds(wire, 65536, 1)
        if not more:
            return None
        text += more
        lock = next(iter(descriptors), lock)
    told: dict[str, Any] = json.loads(text)
    return told, lock


def run_trial(told: dict[str, Any], slate: Slate | None) -> tuple[int, str | None]:
    """One trial: its exit code, and why there must be no other one in this process."""
    os.environ.update(told["variables"])
    # as the record of a run has it
    sys.argv = [str(Path(worker.__file__)), str(told["folder"]), "--stage", "train"]
    stop = StopFlag()
    stop.listen()
    if slate is not None:
        slate.begin()
    trial = worker.Worker(RunFolder.open(told["folder"]), "train", stop)
    code = trial.attend()
    why = trial.spoilt
    del trial
    if why is None:
        why = cleared(slate)
    if stop:
        why = why or "it was asked to stop"
    if why is not None:
        print(f"this process takes no other trial: {why}")
    sys.stdout.flush()
    sys.stderr.flush()
    return code, why


def cleared(slate: Slate | None) -> str | None:
    """Put the process back; why it could not be."""
    if slate is None:
        return "the libraries could not be imported"
    try:
        return slate.clear()
    except Exception as error:  # a device that has failed says so only now
        return f"{type(error).__name__}: {error}"


def listen_idly() -> None:
    """Between trials a request to stop ends the process."""

    def leave(number: int, _frame: FrameType | None) -> None:
        del number
        raise SystemExit(EXIT_STOPPED)

    for number in STOPS:
        signal.signal(number, leave)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
