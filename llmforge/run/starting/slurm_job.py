"""What a Slurm job does on each of its nodes: torchrun, and a place in the queue afterwards.

In: the run folder, on a disk that the nodes share. Out: the exit code of this node's processes.
submitit calls the job once per node, and keeps it as a pickle that submitit alone writes and reads.

When Slurm warns that the nodes will be taken away (out of time, pre-empted), the processes save and
end, and node 0 has the job queued again; it then goes on from its newest checkpoint. A stop that
the user asked for (the driver leaves a mark, or Slurm says so) saves as well, and queues nothing.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from types import FrameType
from typing import Any

from llmforge.plan import Plan
from llmforge.run import environment
from llmforge.run.signals import WARNINGS
from llmforge.run.starting import commands, slurm_queue
from llmforge.run.starting.ranks import RESTART

CANCELLED = ".cancelled"
SCREEN = (".screen.out", ".screen.err")
"""What the processes of node 0 show, for the driver to pass on."""

_PORTS = 20_000
"""Jobs meet at ports from here; which one follows from the job's number."""

_LOOKING = 0.2
"""Seconds between two looks at the processes."""

_WAIT = 600
"""Seconds that nodes of a job wait for one another: they start together."""


class Job:
    """Called by submitit on each node."""

    def __init__(self, folder: str, stage: str, starts: int = 0) -> None:
        self.folder, self.stage = folder, stage
        self.starts = starts
        """How often it was queued again."""

    def __call__(self) -> int:
        """Run this node's processes; returns their exit code."""
        import submitit

        here = submitit.JobEnvironment()
        here.paths.result_pickle.unlink(missing_ok=True)  # of the time before it was queued again
        folder = Path(self.folder)
        plan = Plan.load(folder / "plan.json")
        command = commands.torchrun(
            plan,
            nodes=here.num_nodes,
            node_rank=here.node,
            meet=meeting_point(here),
            backend="static" if here.num_nodes > 1 else "c10d",
            name=f"job-{here.job_id}",
            wait=_WAIT,
            worker=commands.worker_arguments(folder, self.stage),
        )
        variables = {
            **os.environ,
            environment.DRIVER_PID: str(os.getpid()),
            RESTART: str(self.starts),
        }
        shown = [folder / name for name in SCREEN] if here.node == 0 else [Path(os.devnull)] * 2
        with shown[0].open("ab") as out, shown[1].open("ab") as err:
            process = subprocess.Popen(
                command, env=variables, stdin=subprocess.DEVNULL, stdout=out, stderr=err
            )
            warned = _watched(process)
            if warned and here.node == 0 and _goes_on(folder, here):
                _queue_again(warned)
            return process.wait()

    def checkpoint(self) -> Any:
        """The same job, for submitit to queue again."""
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Job(self.folder, self.stage, self.starts + 1))


def meeting_point(here: Any) -> tuple[str, int]:
    """Where the nodes of a job meet: the first host, at a port that all can work out."""
    if here.num_nodes == 1:
        return commands.ALONE, commands.free_port()
    number = int("".join(filter(str.isdigit, here.raw_job_id)) or 0)
    return slurm_queue.address(here.hostnames[0]), _PORTS + number % _PORTS


def _watched(process: subprocess.Popen[bytes]) -> int | None:
    """Wait for the processes; a warning makes them save and end. Returns the signal, if one came.

    A handler may not wait itself: it runs inside the waiting that it interrupts.
    """
    came: list[int] = []

    def warned(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        if len(came) == 1:
            process.send_signal(signal.SIGTERM)

    before = {number: signal.signal(number, warned) for number in (signal.SIGTERM, *WARNINGS)}
    while process.poll() is None:
        time.sleep(_LOOKING)
    for number, handler in before.items():
        signal.signal(number, handler)
    return came[0] if came else None


def _goes_on(folder: Path, here: Any) -> bool:
    """Is it for us to queue the job again?

    Not where our driver ended it. While Slurm has it as running, the warning is of things to come.
    Once it is being ended, Slurm has decided: `scancel`, or a pre-emption that queues it again.
    """
    if (folder / CANCELLED).exists():
        return False
    if here.name() != "slurm":
        return True
    return slurm_queue.state(here.raw_job_id).startswith("RUNNING")


def _queue_again(number: int) -> None:
    """Hand over to submitit, whose handler keeps the job, asks for its requeue and exits."""
    import submitit

    handler = signal.getsignal(submitit.JobEnvironment()._usr_sig())  # noqa: SLF001 - its own choice
    if callable(handler):
        handler(number, None)
