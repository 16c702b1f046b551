"""LF45: how the worker processes are started, and whether that can be."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.launching import read_hosts
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.rules.base import rule
from llmforge.compiler.rules.dividing import fitting_processes
from llmforge.diagnostics import Diagnostic
from llmforge.schema.launching import (
    DeepSpeedLaunch,
    LaunchSpec,
    LocalLaunch,
    RayLaunch,
    SlurmLaunch,
    TorchrunLaunch,
)

_PACKAGES: dict[type[LaunchSpec], tuple[str, str]] = {
    DeepSpeedLaunch: ("deepspeed", "deepspeed"),
    RayLaunch: ("ray", "ray"),
    SlurmLaunch: ("submitit", "launchers"),
}
"""Launcher -> the package that does it, and the extra that brings it."""

_LAST_PORT = 65_535


@rule("LF450", "num_gpus against launch.processes")
def num_gpus_against_processes(context: Context) -> Iterator[Diagnostic]:
    """`num_gpus` is the number of GPUs of each node, one process for each; `launch.processes` is
    the number of processes in all. When both are given they must agree.

    One of the two is enough: leave `launch.processes` at `auto`.
    """
    launch, many = context.spec.launch, context.spec.num_gpus
    world = launch.processes
    if many is None or not isinstance(world, int) or world == many * launch.node_count:
        return
    if isinstance(launch, LocalLaunch) and many > 1:
        return  # LF407 says that it is one process
    yield Diagnostic(
        "LF450",
        f"num_gpus={many} and launch.processes={world}"
        + (f" on {launch.node_count} nodes" if launch.node_count > 1 else ""),
        key="launch.processes",
        hint="launch.processes=auto",
    )


@rule("LF451", "more GPUs than there are")
def more_gpus_than_there_are(context: Context) -> Iterator[Diagnostic]:
    """`num_gpus` asks for more GPUs than the plan's hardware has on a node, or for GPUs of a
    machine that has none.

    Processes on CPU cores are asked for by `launch=torchrun launch.processes=2`: they are no GPUs,
    and who asks for two GPUs should not get two CPU processes without a word.
    """
    machine, many = hardware(context), context.spec.num_gpus
    if many is None:
        return
    if machine.device == "cpu":
        hint = "num_gpus=null"
        if many > 1:
            hint += f" launch=torchrun launch.processes={many}"
        yield Diagnostic(
            "LF451", f"num_gpus={many}, and the hardware has no GPU", key="num_gpus", hint=hint
        )
    elif many > machine.count:
        asked = context.facts.space is not None  # only of the machine at hand is the disk known
        yield Diagnostic(
            "LF451",
            f"num_gpus={many}, and the node has {machine.count} x {machine.name}",
            key="num_gpus",
            notes=() if asked else (f"or as many as described: `num_gpus={machine.count}`",),
            hint=f"num_gpus={_fitting_gpus(context, machine.count)}"
            if asked
            else f"hardware.count={many}",
        )


def _fitting_gpus(context: Context, most: int) -> int:
    """GPUs of each node, over which the global batch divides."""
    nodes = context.spec.launch.node_count
    return fitting_processes(context, most * nodes, nodes) // nodes


@rule("LF452", "processes that do not divide over the nodes")
def uneven_nodes(context: Context) -> Iterator[Diagnostic]:
    """Each node runs the same number of processes, so that they divide over the nodes."""
    launch = context.spec.launch
    nodes, world = launch.node_count, launch.processes
    if nodes > 1 and isinstance(world, int) and world % nodes:
        yield Diagnostic(
            "LF452",
            f"{world} processes over {nodes} nodes",
            key="launch.processes",
            hint=f"launch.processes={fitting_processes(context, world, nodes)}",
        )


@rule("LF453", "nodes that cannot meet")
def nodes_without_a_meeting_point(context: Context) -> Iterator[Diagnostic]:
    """With several nodes, torchrun is started on each by the same command. Each must know where
    they meet (`launch.rendezvous`, a port of node 0) and which of them it is
    (`launch.node_rank`, from 0). Both are asked for when the run is started; a plan needs neither.

    Under Slurm, and with a hostfile (`launch=deepspeed`), one command is enough.
    """
    launch = context.spec.launch
    if not isinstance(launch, TorchrunLaunch):
        return
    host, _, port = launch.rendezvous.rpartition(":")
    if host and not 0 < int(port) <= _LAST_PORT:
        yield Diagnostic(
            "LF453",
            f"there is no port {port}: they go from 1 to {_LAST_PORT:,}",
            key="launch.rendezvous",
            hint=None if ":" in host else f"launch.rendezvous={host}:29500",
        )
    if launch.nodes == 1 or launch.node_rank is None:
        return
    if launch.node_rank >= launch.nodes:
        yield Diagnostic(
            "LF453",
            f"node {launch.node_rank} of {launch.nodes}; they are numbered from 0",
            key="launch.node_rank",
            hint=f"launch.node_rank={launch.nodes - 1}",
        )


_HOSTFILE = "`launch.hostfile` is a file with a line `host slots=N` for each machine"


@rule("LF454", "hostfile that cannot be used")
def unusable_hostfile(context: Context) -> Iterator[Diagnostic]:
    """A hostfile has a line `host slots=N` for each machine, N being its GPUs. It must name as many
    hosts as `launch.nodes`, with slots for the processes of each.

    DeepSpeed by itself goes on with the local machine when the file is missing.
    """
    launch = context.spec.launch
    if not isinstance(launch, DeepSpeedLaunch):
        return
    key = "launch.hostfile"
    if launch.hostfile is None:
        if launch.node_count > 1:
            yield Diagnostic(
                "LF454",
                f"{launch.nodes} nodes, and no hostfile that names them",
                key=key,
                notes=(_HOSTFILE,),
                hint="launch.nodes=1",
            )
        return
    hosts = read_hosts(launch.hostfile)
    if hosts.fault is not None:
        yield Diagnostic(
            "LF454",
            f"hostfile: {hosts.fault}",
            key=key,
            notes=(_HOSTFILE, "without one, this machine alone"),
            hint="launch.hostfile=null",
        )
        return
    if launch.node_count > len(hosts.slots):
        yield Diagnostic(
            "LF454",
            f"{launch.nodes} nodes, and {launch.hostfile} names {len(hosts.slots)}",
            key="launch.nodes",
            hint=f"launch.nodes={len(hosts.slots)}",
        )
        return
    world = launch.processes
    each = world // launch.node_count if isinstance(world, int) else 1
    used = list(hosts.slots.items())[: launch.node_count]
    small = [(host, slots) for host, slots in used if slots < each]
    if small:
        fewest = min(slots for _, slots in small)
        yield Diagnostic(
            "LF454",
            f"{each} processes per host, and {small[0][0]} has {small[0][1]} slots",
            key="launch.processes",
            notes=(f"in {launch.hostfile}",),
            hint="launch.processes="
            + str(fitting_processes(context, fewest * launch.node_count, launch.node_count)),
        )


@rule("LF455", "launcher that is not installed")
def launcher_missing(context: Context) -> Iterator[Diagnostic]:
    """Each launcher but torchrun is a package of its own, which an extra brings."""
    launch = context.spec.launch
    package, extra = _PACKAGES.get(type(launch), (None, ""))
    if package is not None and not context.facts.has(package):
        yield Diagnostic(
            "LF455",
            f"launch={launch.kind} needs {package}, which is not installed",
            key="launch.kind",
            hint=f"pip install 'llmforge[{extra}]'",
        )


@rule("LF456", "launch settings that contradict one another")
def contradicting_settings(context: Context) -> Iterator[Diagnostic]:
    """A node's number without other nodes, a job tried out on this machine that has several nodes,
    a queued job that is left to itself where something is to follow on it, GPUs claimed by Ray's
    workers that the plan's hardware does not have: one of the two is wrong.
    """
    launch = context.spec.launch
    if isinstance(launch, TorchrunLaunch) and launch.nodes == 1 and (launch.node_rank or 0) > 0:
        yield Diagnostic(
            "LF456",
            f"this is node {launch.node_rank}, and there is one node",
            key="launch.node_rank",
            hint="launch.node_rank=null",
        )
    if isinstance(launch, SlurmLaunch) and launch.executor == "local" and launch.nodes > 1:
        yield Diagnostic(
            "LF456",
            f"a job on this machine has one node, and {launch.nodes} are asked for",
            key="launch.nodes",
            hint="launch.nodes=1",
        )
    if isinstance(launch, SlurmLaunch) and launch.warning >= launch.minutes * 60:
        yield Diagnostic(
            "LF456",
            f"the warning comes {launch.warning} s before the end of a job of {launch.minutes} min",
            key="launch.warning",
            hint=f"launch.warning={launch.minutes * 20}",
        )
    if isinstance(launch, SlurmLaunch) and not launch.wait and context.spec.fuse.after_training:
        yield Diagnostic(
            "LF456",
            "the adapter is fused when the job is over, and nobody waits for that",
            key="launch.wait",
            hint="launch.wait=true",
        )
    if isinstance(launch, RayLaunch) and isinstance(launch.gpus, int):
        yield from _claimed_gpus(context, launch.gpus)


def _claimed_gpus(context: Context, gpus: int) -> Iterator[Diagnostic]:
    cuda = hardware(context).device == "cuda"
    if gpus > 0 and not cuda:
        message = f"each worker claims {gpus} GPU, and the plan's hardware has none"
    elif gpus != 1 and cuda:
        message = f"each worker claims {gpus} GPUs; a process uses one"
    else:
        return
    yield Diagnostic("LF456", message, key="launch.gpus", hint="launch.gpus=auto")
