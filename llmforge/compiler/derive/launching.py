"""How many processes, on how many nodes, and how they meet.

In: spec and facts. Out: solved values of section `launch` with reasons. A hostfile is read here;
what is wrong with one is told by `rules/launching.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from llmforge.compiler.context import Context, Derived, Step
from llmforge.compiler.derive.machine import hardware
from llmforge.schema.launching import (
    DeepSpeedLaunch,
    LocalLaunch,
    RayLaunch,
    SlurmLaunch,
    TorchrunLaunch,
)

_HOST = re.compile(r"(\S+)\s+slots=(\d+)\s*(#.*)?")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:%@-]*")
"""A host as programs take it: what begins with `-` would be an option of ssh, and pdsh reads more
than a name where there are brackets, commas, `^` or `/`."""


@dataclass(frozen=True)
class Hosts:
    """A hostfile, read."""

    slots: dict[str, int]
    """Devices of each host, in the file's order."""
    fault: str | None = None
    """What is wrong with the file."""
    line: int | None = None
    """Where, 1-based."""


def read_hosts(path: str) -> Hosts:
    """The hosts of a file of `host slots=N` lines, as DeepSpeed and MPI write it."""
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return Hosts({}, f"there is no file {path}")
    except (OSError, UnicodeDecodeError) as error:
        return Hosts({}, f"{path} cannot be read: {error}")
    slots: dict[str, int] = {}
    for number, line in enumerate(lines, 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        found = _HOST.fullmatch(text)
        if found is None:
            return Hosts(slots, f"{path}:{number} is not `host slots=N`: {text[:60]}", number)
        if not _NAME.fullmatch(found[1]):
            return Hosts(slots, f"{path}:{number}: `{found[1][:60]}` is no name of a host", number)
        if found[1] in slots:
            return Hosts(slots, f"{path}:{number} names {found[1]} a second time", number)
        if int(found[2]) == 0:
            return Hosts(slots, f"{path}:{number} gives {found[1]} no slot", number)
        slots[found[1]] = int(found[2])
    return Hosts(slots, None if slots else f"{path} names no host")


def derive_processes(context: Context) -> Step:
    """World size: one process, or one per device of every node; and what hangs on it."""
    found = [*_nodes(context)]
    launch = context.spec.launch
    nodes = next((item.value for item in found if item.key == "launch.nodes"), launch.node_count)
    if launch.processes == "auto":
        found.append(_processes(context, int(nodes)))
    world = launch.processes if launch.processes != "auto" else found[-1].value
    return Step((*found, *_meeting(context), *_shares(context, int(world), int(nodes))))


def _nodes(context: Context) -> Iterator[Derived]:
    launch = context.spec.launch
    if not isinstance(launch, DeepSpeedLaunch) or launch.nodes != "auto":
        return
    if launch.hostfile is None:
        yield Derived("launch.nodes", 1, "no hostfile: this machine alone", ("launch.hostfile",))
        return
    hosts = read_hosts(launch.hostfile).slots
    why = f"hosts of {launch.hostfile}"
    yield Derived("launch.nodes", max(1, len(hosts)), why, ("launch.hostfile",))


def _processes(context: Context, nodes: int) -> Derived:
    spec = context.spec
    if isinstance(spec.launch, LocalLaunch):
        return Derived("launch.processes", 1, "a local launch is one process")
    if spec.num_gpus is not None:
        why, each = "one process per GPU asked for", spec.num_gpus
        reads: tuple[str, ...] = ("num_gpus",)
    else:
        why, each = "one process per device", hardware(context).count
        reads = ("hardware.count",)
    if nodes > 1:
        return Derived(
            "launch.processes", each * nodes, f"{why}, of each node", (*reads, "launch.nodes")
        )
    return Derived("launch.processes", each, why, reads)


def _meeting(context: Context) -> Iterator[Derived]:
    launch = context.spec.launch
    if isinstance(launch, TorchrunLaunch) and launch.rendezvous_backend == "auto":
        again = launch.max_restarts > 0 or launch.nodes == 1
        yield Derived(
            "launch.rendezvous_backend",
            "c10d" if again else "static",
            "nodes may come back after a restart"
            if again and launch.nodes > 1
            else "one node meets itself"
            if again
            else "node 0 holds rank 0, which shows the run's progress",
            ("launch.max_restarts", "launch.nodes"),
        )


def _shares(context: Context, world: int, nodes: int) -> Iterator[Derived]:
    """What each worker, or each node of a job, claims of the machine."""
    launch, machine = context.spec.launch, hardware(context)
    cuda = machine.device == "cuda"
    if isinstance(launch, RayLaunch) and launch.gpus == "auto":
        why = "each process has a GPU of its own" if cuda else "the plan's hardware has no GPU"
        yield Derived("launch.gpus", int(cuda), why, ("hardware.device",))
    if isinstance(launch, SlurmLaunch) and launch.cpus == "auto":
        if cuda and world // nodes < machine.count:
            cores = max(1, machine.cores * (world // nodes) // machine.count)
            why = "the cores that go with the GPUs it uses"
        else:
            cores, why = machine.cores, "all cores of the node"
        yield Derived("launch.cpus", cores, why, ("hardware.cores", "launch.processes"))
