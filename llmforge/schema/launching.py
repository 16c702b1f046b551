"""Schema of the `launch` section: who starts the worker processes, how many, and where.

In: nothing. Out: one spec for each launcher. How many processes there are in all (the world size)
decides the batch arithmetic and with it the result; everything else here is bookkeeping. The
commands are built in `run/starting/commands.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import Auto, Effect, NonNegativeInt, PositiveInt, Spec

Port = Annotated[int, Field(ge=1, le=65535)]
Restarts = Annotated[int, Field(ge=0, le=1000)]
Seconds = Annotated[int, Field(ge=1)]


class LaunchSpec(Spec):
    """How worker processes are started."""

    effect = Effect.BOOKKEEPING

    kind: str
    processes: Annotated[PositiveInt | Auto, Effect.NUMERICS]
    """Worker processes over the whole run (world size); `auto` is one per device of all nodes, 1
    for local."""
    threads: Annotated[NonNegativeInt, Effect.SPEED]
    """CPU threads per process; 0 divides the cores evenly."""

    @property
    def node_count(self) -> int:
        """Nodes that the processes are spread over, as far as the plan decides it."""
        found = getattr(self, "nodes", 1)
        return found if isinstance(found, int) else 1


@register("launch", "local", "llmforge.run.starting.commands:local_command")
class LocalLaunch(LaunchSpec):
    """One process on one device."""

    kind: Literal["local"]


@register("launch", "torchrun", "llmforge.run.starting.commands:torchrun_command")
class TorchrunLaunch(LaunchSpec):
    """One process per device, started by torchrun; with several nodes, the same command on each."""

    kind: Literal["torchrun"]
    nodes: PositiveInt
    """Machines; the command is given on each of them, with a `node_rank` of its own."""
    node_rank: NonNegativeInt | None
    """Number of this machine, from 0; needed with several nodes. Node 0 keeps the run's status and
    shows its progress."""
    rendezvous: Annotated[str, Field(pattern=r"^(auto|[A-Za-z0-9_.\-\[\]:]+:\d{1,5})$")]
    """`host:port` at which the nodes meet: node 0's address, reachable from all of them. `auto` is
    a free port of this machine, for one node."""
    rendezvous_backend: Literal["static", "c10d"] | Auto
    """How they meet: `static` gives node 0 the rank 0; `c10d` also lets nodes come back after a
    restart. `auto` is c10d when there may be restarts."""
    rendezvous_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
    """Name of the meeting, the same on all nodes; `auto` is the run's id."""
    rendezvous_wait: Seconds
    """Seconds that a node waits for the others."""
    max_restarts: Restarts
    """How often all processes are started again, from the newest checkpoint, when one has died."""


@register("launch", "deepspeed", "llmforge.run.starting.commands:deepspeed_command")
class DeepSpeedLaunch(LaunchSpec):
    """DeepSpeed's own launcher: one command reaches all hosts of a hostfile, by SSH."""

    kind: Literal["deepspeed"]
    nodes: PositiveInt | Auto
    """Machines; `auto` is all hosts of the hostfile, 1 without one."""
    hostfile: str | None
    """File of `host slots=N` lines; null is this machine alone."""
    ssh: Literal["pdsh", "openmpi", "mpich", "slurm"]
    """Which program reaches the hosts of a hostfile."""
    ssh_port: Port | None
    """Port of the hosts' SSH servers; null is SSH's own default."""
    port: Port | Auto
    """Port of the first host at which the processes meet; `auto` is a free one (one node)."""


@register("launch", "ray", "llmforge.run.starting.commands:ray_command")
class RayLaunch(LaunchSpec):
    """Ray Train: one Ray worker per process, on a cluster that runs or that is started for it."""

    kind: Literal["ray"]
    address: str | None
    """`host:port` or `ray://host:10001` of a cluster, or `auto`; null starts Ray on this machine
    for the run and ends it with it."""
    cpus: PositiveInt
    """CPU cores that each worker claims."""
    gpus: NonNegativeInt | Auto
    """GPUs that each worker claims: 1 or 0; `auto` is 1 where the plan's hardware has GPUs."""
    resources: dict[str, float]
    """Further resources that each worker claims, by the names the cluster has for them."""
    placement: Literal["PACK", "SPREAD", "STRICT_PACK", "STRICT_SPREAD"]
    """Whether workers lie on few nodes or on many; the strict forms wait until they can."""
    storage: str | None
    """Folder or URI (`s3://...`) that all nodes reach: there the newest checkpoint goes, and comes
    back from, when they do not share `paths.runs`. Null is the run's own folder."""
    max_failures: Restarts
    """How often the workers are started again, from the newest checkpoint, when one has died."""
    wait: Seconds
    """Seconds to wait for a cluster, and for the workers to be placed on it."""


@register("launch", "slurm", "llmforge.run.starting.commands:slurm_command")
class SlurmLaunch(LaunchSpec):
    """A Slurm job, submitted through submitit; on each node torchrun starts a process per device.

    A job that is about to lose its nodes (pre-empted, out of time) saves and is queued again.
    """

    kind: Literal["slurm"]
    executor: Literal["slurm", "local"]
    """`local` runs the job on this machine, for trying it out; one node."""
    nodes: PositiveInt
    """Machines of the job."""
    minutes: PositiveInt
    """Time limit of the job; a job that reaches it saves, and is queued again."""
    partition: str | None
    """Partition (queue); null is the cluster's default."""
    account: str | None
    """Account the time is charged to; null is the user's default."""
    qos: str | None
    """Quality of service; null is the user's default."""
    constraint: str | None
    """Features that nodes must have, in Slurm's words; null is none."""
    cpus: PositiveInt | Auto
    """CPU cores per node; `auto` is those of the plan's hardware."""
    memory: str | None
    """Main memory per node, such as `256GB`; null leaves it to the cluster."""
    setup: list[str]
    """Shell lines before the job starts, such as `module load cuda`; they are your own."""
    parameters: dict[str, Any]
    """Further `#SBATCH` options by their long names: `{reservation: mine}`."""
    warning: Seconds
    """Seconds before the end at which Slurm warns the job, so that it can save."""
    requeues: Restarts
    """How often it is queued again after it ran out of time; pre-emption does not count."""
    max_restarts: Restarts
    """How often, within a job, all processes are started again when one has died."""
    wait: bool
    """Stay until the job is over and tell how it went; false returns once it is queued."""
