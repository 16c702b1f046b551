"""What the driver starts: one command for each kind of launch.

In: a plan, the run folder, a stage. Out: the argument list of the process that the driver starts
and waits for (builders of section `launch`): the worker itself, or a launcher that starts a worker
for each rank. What a launcher needs beside it, such as the list of hosts, is written in the run
folder. Every worker is `run/worker.py` and reads the plan; nothing is composed again.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any

from llmforge.plan import Plan

PATIENCE = 600
"""Seconds that workers which were asked to stop get for saving; torchrun's own half a minute is
too short for a checkpoint."""

WORKER = "llmforge.run.worker"
"""The module that each process runs."""

ALONE = "127.0.0.1"
"""Where the processes of one node meet: nobody else can reach it."""


def worker_arguments(folder: Path, stage: str, plan_file: Path | None = None) -> list[str]:
    """Of the worker: its module and what follows."""
    own = ["--plan", str(plan_file)] if plan_file else []
    return [WORKER, str(folder), "--stage", stage, *own]


def local_command(plan: Plan, folder: Path, stage: str) -> list[str]:
    """One process (builder of `launch.kind=local`)."""
    del plan
    return [sys.executable, "-m", *worker_arguments(folder, stage)]


def torchrun_command(plan: Plan, folder: Path, stage: str) -> list[str]:
    """One process per device of this node (builder of `launch.kind=torchrun`)."""
    launch = plan.settings["launch"]
    rank = launch["node_rank"] or 0
    own = plan_of_node(folder, rank) if rank else None
    return torchrun(
        plan,
        nodes=int(launch["nodes"]),
        node_rank=rank,
        meet=meeting_point(launch["rendezvous"]),
        backend=str(launch["rendezvous_backend"]),
        name=plan.run_id if launch["rendezvous_id"] == "auto" else str(launch["rendezvous_id"]),
        wait=int(launch["rendezvous_wait"]),
        worker=worker_arguments(folder, stage, own),
    )


def waits(plan: Plan) -> bool:
    """Does the driver stay until the run has ended? A job in a queue can be left to itself."""
    launch = plan.settings["launch"]
    return launch["kind"] != "slurm" or bool(launch["wait"])


def torchrun(
    plan: Plan,
    nodes: int,
    node_rank: int,
    meet: tuple[str, int],
    backend: str,
    name: str,
    wait: int,
    worker: list[str],
) -> list[str]:
    """torchrun on one node of several, or of one.

    Args:
        meet: host and port at which the nodes meet; on one node a free port of this machine.
        backend: `static` or `c10d`.
        name: of the meeting.
        wait: seconds to wait for the other nodes.
        worker: module and arguments of each process.
    """
    launch = plan.settings["launch"]
    host, port = meet
    if backend == "static":
        place = ["--master-addr", host, "--master-port", str(port)]
        waits = f"timeout={wait}"
    else:
        place = ["--rdzv-endpoint", f"{host}:{port}"]
        waits = f"join_timeout={wait},is_host={str(node_rank == 0).lower()}"
    return [
        *(sys.executable, "-m", "llmforge.run.starting.torchrun"),
        *("--nnodes", str(nodes), "--node-rank", str(node_rank)),
        *("--nproc-per-node", str(int(launch["processes"]) // nodes)),
        *("--rdzv-backend", backend, *place, "--rdzv-id", name, "--rdzv-conf", waits),
        *("--max-restarts", str(launch["max_restarts"])),
        *("--shutdown-timeout", str(PATIENCE)),
        *("-m", *worker),
    ]


def deepspeed_command(plan: Plan, folder: Path, stage: str) -> list[str]:
    """DeepSpeed's launcher, here or on the hosts of a hostfile (builder of `deepspeed`)."""
    launch = plan.settings["launch"]
    port = free_port() if launch["port"] == "auto" else int(launch["port"])
    each = int(launch["processes"]) // int(launch["nodes"])
    start = [sys.executable, "-m", "llmforge.run.starting.deepspeed"]
    worker = worker_arguments(folder, stage)
    if launch["hostfile"] is None:
        return [*start, "--here", str(each), str(port), *worker]
    ssh = ["--ssh_port", str(launch["ssh_port"])] if launch["ssh_port"] else []
    return [
        *(*start, "--hostfile", str(Path(launch["hostfile"]).absolute())),
        *("--num_nodes", str(launch["nodes"]), "--num_gpus", str(each)),
        *("--launcher", str(launch["ssh"]), *ssh, "--force_multi"),
        *("--master_port", str(port), "--no_local_rank", "--module", *worker),
    ]


def ray_command(plan: Plan, folder: Path, stage: str) -> list[str]:
    """A process that runs the workers by Ray Train (builder of `launch.kind=ray`)."""
    del plan
    return [sys.executable, "-m", "llmforge.run.starting.ray_driver", str(folder), "--stage", stage]


def slurm_command(plan: Plan, folder: Path, stage: str) -> list[str]:
    """A process that submits the job and waits for it (builder of `launch.kind=slurm`)."""
    del plan
    return [sys.executable, "-m", "llmforge.run.starting.slurm", str(folder), "--stage", stage]


def meeting_point(rendezvous: str) -> tuple[str, int]:
    """Host and port of `launch.rendezvous`; of `auto` a free port of this machine."""
    if rendezvous == "auto":
        return ALONE, free_port()
    host, _, port = rendezvous.rpartition(":")
    return host.strip("[]"), int(port)


def free_port() -> int:
    """A port of this machine that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind((ALONE, 0))
        return int(probe.getsockname()[1])


def plan_of_node(folder: Path, node_rank: int) -> Path:
    """Where a node other than 0 keeps its plan, which differs in `launch.node_rank`."""
    return folder / f"plan.node{node_rank}.json"


def is_elsewhere(launch: dict[str, Any]) -> bool:
    """Do the workers run on machines other than the one the command is given on?"""
    if launch["kind"] == "slurm":
        return bool(launch["executor"] == "slurm")
    return launch["kind"] == "ray" and launch["address"] is not None
