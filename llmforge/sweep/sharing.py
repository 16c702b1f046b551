"""Trials side by side on one machine: who gets which device and how many CPU threads.

In: a trial's place among those that run at once. Out: the job's environment while it runs, which
its worker inherits. What the launcher or the user has set is left alone. Trials on machines of
their own have a place of 0 of 1, and nothing is changed for them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from llmforge.plan import Plan
from llmforge.run.environment import cores

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
_DEVICES = "CUDA_VISIBLE_DEVICES"


@contextmanager
def share(plan: Plan, place: int, places: int) -> Iterator[None]:
    """The job's environment with this trial's share of the machine.

    Args:
        place: of the trial among those that run at once, from 0.
        places: how many run at once on this machine.
    """
    changes = shares(plan, place, places)
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def shares(plan: Plan, place: int, places: int) -> dict[str, str]:
    """Environment variables of one of several trials on this machine."""
    found: dict[str, str] = {}
    launch = plan.settings["launch"]
    processes = int(launch["processes"])
    if places > 1 and not int(launch["threads"]) and not os.environ.get(_THREADS[0]):
        each = max(1, cores() // (places * processes))
        found |= dict.fromkeys(_THREADS, str(each))
    hardware = plan.settings["hardware"]
    if places > 1 and hardware["device"] == "cuda":
        seen = os.environ.get(_DEVICES) or ",".join(map(str, range(int(hardware["count"]))))
        devices = seen.split(",")
        first = place * processes % len(devices)
        found[_DEVICES] = ",".join(devices[first : first + processes])
    return found


def most_at_once(plan: Plan, memory: int | None) -> int:
    """Trials of this kind that the machine takes side by side: one per device that each needs, on a
    CPU as many as its memory and its cores.

    Args:
        memory: bytes that the largest of them takes on one device.
    """
    hardware = plan.settings["hardware"]
    processes = int(plan.settings["launch"]["processes"])
    if hardware["device"] == "cuda":
        return max(1, int(hardware["count"]) // processes)
    fits = int(hardware["memory_gib"] * 2**30 // (memory * processes)) if memory else cores()
    return max(1, min(fits, cores() // processes))
