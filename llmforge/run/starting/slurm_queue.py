"""What Slurm knows of a job: whether it is in the queue, how it ended; and asking it to end.

In: the number of a job, or a node's name. Out: what `squeue` and `scontrol` print, which every
cluster has; `sacct` needs accounting, which small ones do without. A controller that does not
answer is no end of a job.
"""

from __future__ import annotations

import socket
import subprocess

_PATIENCE = 60.0
"""Seconds for an answer of the controller."""


def in_queue(job: str) -> bool | None:
    """Is the job waiting, running or about to run again? None where Slurm does not say."""
    told = _ask("squeue", "--noheader", "--jobs", job)
    if told is None:
        return None
    if told.returncode == 0:
        return bool(told.stdout.strip())
    # it forgets jobs some minutes after their end
    return False if "Invalid job id" in told.stderr else None


def state(job: str) -> str:
    """How the job stands, for people: `TIMEOUT (TimeLimit)`; `unknown` once Slurm has forgotten."""
    told = _ask("scontrol", "show", "job", "--oneliner", job)
    if told is None or told.returncode:
        return "unknown"
    pairs = _pairs(told.stdout)
    reason = pairs.get("Reason", "None")
    return pairs.get("JobState", "unknown") + (f" ({reason})" if reason != "None" else "")


def address(node: str) -> str:
    """Where a node is reached: its name, or what Slurm knows if the name has no address here."""
    try:
        socket.getaddrinfo(node, None)
    except socket.gaierror:
        told = _ask("scontrol", "show", "node", "--oneliner", node)
        found = _pairs(told.stdout) if told and not told.returncode else {}
        return found.get("NodeAddr", node)
    return node


def ask_to_end(job: str) -> None:
    """Tell the job's tasks to save and end (SIGTERM); one that only waits is taken out."""
    _ask("scancel", "--state=PENDING", job)
    _ask("scancel", "--signal=TERM", job)


def _pairs(line: str) -> dict[str, str]:
    """`Name=value` words of a record on one line."""
    return dict(word.split("=", 1) for word in line.split() if "=" in word)


def _ask(*command: str) -> subprocess.CompletedProcess[str] | None:
    try:
        return subprocess.run(
            command, capture_output=True, text=True, timeout=_PATIENCE, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
