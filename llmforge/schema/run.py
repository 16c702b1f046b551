"""Schema of where and how a run happens, and the root that holds all sections.

In: the other schema modules. Out: specs for `deepspeed`, `fsdp`, `hardware`, `launch`,
`tracking`, `paths`, and `RunSpec`. `SECTIONS` is the one table of section names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from llmforge.registry import register
from llmforge.schema.adapter import AdapterSpec
from llmforge.schema.base import (
    Auto,
    Effect,
    NonNegativeInt,
    PositiveInt,
    SecretRef,
    Spec,
)
from llmforge.schema.checkpoint import CheckpointSpec
from llmforge.schema.collate import CollatorSpec
from llmforge.schema.data import Rows
from llmforge.schema.evaluation import EvaluationSpec
from llmforge.schema.experiment import ExperimentSpec
from llmforge.schema.extension import Callbacks, Metrics
from llmforge.schema.fuse import FuseSpec
from llmforge.schema.generation import GenerationSpec
from llmforge.schema.hub import CardSpec, HubSpec
from llmforge.schema.model import ModelSpec, TokenizerSpec
from llmforge.schema.optim import OptimizerSpec, ScheduleSpec
from llmforge.schema.precision import PrecisionSpec, QuantizationSpec
from llmforge.schema.quantize import QuantizeSpec
from llmforge.schema.train import TrainerSpec


class DeepSpeedSpec(Spec):
    """ZeRO sharding through DeepSpeed (Rajbhandari et al. 2019, arXiv 1910.02054)."""

    effect = Effect.SPEED

    kind: str


@register("deepspeed", "none")
class NoDeepSpeed(DeepSpeedSpec):
    """No DeepSpeed."""

    kind: Literal["none"]


@register("deepspeed", "zero")
class Zero(DeepSpeedSpec):
    """One ZeRO stage; the DeepSpeed JSON is generated from the plan, never written twice."""

    kind: Literal["zero"]
    stage: Literal[1, 2, 3]
    """1 shards optimizer state, 2 gradients as well, 3 weights as well."""
    offload_optimizer: bool
    """Keep optimizer state in CPU memory."""
    offload_parameters: bool
    """Stage 3: keep weights in CPU memory."""
    bucket_size: PositiveInt
    """Elements per communication bucket."""
    overlap_communication: bool
    """Reduce gradients while the backward pass goes on: faster, for more memory."""
    contiguous_gradients: bool
    """Copy gradients into one buffer as they come, so that memory is not cut into pieces."""


class FsdpSpec(Spec):
    """Fully sharded data parallelism of PyTorch (FSDP2), through accelerate."""

    effect = Effect.SPEED

    kind: str


@register("fsdp", "none")
class NoFsdp(FsdpSpec):
    """No FSDP."""

    kind: Literal["none"]


@register("fsdp", "fsdp2")
class Fsdp2(FsdpSpec):
    """FSDP2 with a shard per process."""

    kind: Literal["fsdp2"]
    reshard_after_forward: bool
    """Free gathered weights after the forward pass (full sharding)."""
    offload: bool
    """Keep shards in CPU memory."""


class HardwareSpec(Spec):
    """The machine the plan is for; it need not be the one at hand."""

    effect = Effect.BOOKKEEPING

    kind: str


@register("hardware", "auto")
class AutoHardware(HardwareSpec):
    """Looked up on this machine: GPUs by the driver's own tool, else the CPU."""

    kind: Literal["auto"]


@register("hardware", "device")
class Device(HardwareSpec):
    """A described machine."""

    kind: Literal["device"]
    device: Literal["cuda", "cpu"]
    """What the arithmetic runs on."""
    name: str
    """What the driver calls the device."""
    count: PositiveInt
    """Devices on the node; 1 for a CPU."""
    memory_gib: Annotated[float, Field(gt=0.0)]
    """Memory of one device in GiB; main memory for a CPU."""
    compute_capability: str | None
    """CUDA compute capability such as `9.0`; null for a CPU."""
    bf16: bool
    """Has bfloat16 arithmetic."""
    cores: PositiveInt
    """CPU cores of the node."""


class LaunchSpec(Spec):
    """How worker processes are started."""

    effect = Effect.BOOKKEEPING

    kind: str
    processes: Annotated[PositiveInt | Auto, Effect.NUMERICS]
    """Worker processes over the whole run (world size); `auto` is one per device, 1 for local."""
    threads: Annotated[NonNegativeInt, Effect.SPEED]
    """CPU threads per process; 0 divides the cores evenly."""


@register("launch", "local", "llmforge.run.launch:local_command")
class LocalLaunch(LaunchSpec):
    """One process on one device."""

    kind: Literal["local"]


@register("launch", "torchrun", "llmforge.run.launch:torchrun_command")
class TorchrunLaunch(LaunchSpec):
    """One process per device on this node, started by torchrun."""

    kind: Literal["torchrun"]


class TrackingSpec(Spec):
    """Where runs are recorded."""

    effect = Effect.BOOKKEEPING

    kind: str


@register("tracking", "none", "llmforge.track.protocol:NullTracker")
class NoTracking(TrackingSpec):
    """Only the run folder."""

    kind: Literal["none"]


@register("tracking", "mlflow", "llmforge.track.mlflow:MlflowTracker")
class MlflowTracking(TrackingSpec):
    """MLflow, local database or server."""

    kind: Literal["mlflow"]
    uri: str
    """`sqlite:///mlflow.db`, another SQLAlchemy URL, or `http(s)://host:port`."""
    experiment: str
    """MLflow experiment the run stands in; made when missing."""
    token: SecretRef | None
    """`env:NAME` of the server's bearer token; null sends none."""
    registered_model: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_. -]{0,99}$")] | None
    """Registered model whose versions the checkpoints and the final model become; null registers
    none. The aliases `best` and `last` follow, and a pruned checkpoint's version goes with it."""
    upload: Literal["none", "final", "checkpoints"]
    """Weights that are copied to MLflow in the background: none (a version then points at its
    folder), the final model's, or those of every checkpoint as well."""


class PathsSpec(Spec):
    """Where things are written."""

    effect = Effect.BOOKKEEPING

    runs: str
    """Parent of run folders: `<runs>/<name>-<fingerprint>`."""
    cache: str
    """Prepared data and file scans, shared by runs."""
    env_file: str | None
    """File of `NAME=value` lines in which `env:NAME` is looked up when the environment has no such
    variable; it may be missing. Nothing else of it is read, and null reads none."""


class Scalars(Spec):
    """Values of the whole run that belong to no section."""

    name: Annotated[str, Effect.BOOKKEEPING, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]
    """Short name of the run: letters, digits, `_`, `.`, `-`."""
    seed: Annotated[int, Field(ge=0, le=2**32 - 1)]
    """Seed of weights, shuffling and dropout."""
    plugins: Annotated[list[str], Effect.BOOKKEEPING]
    """Modules of your own to import first: they register data set classes, transforms, and
    components such as callbacks and trainers."""
    callbacks: Callbacks
    """Callbacks of your own by names of your own: `{counter: {kind: step_counter, every: 10}}`."""
    metrics: Metrics
    """Metrics of your own by the names they appear under: `{f1: {kind: word_f1}}` is `eval_f1`."""
    deterministic: Annotated[bool, Effect.SPEED]
    """Use deterministic kernels where they exist: bit-equal repeats, slower on GPUs."""


class RunSpec(Scalars):
    """One run, whole: what the compiler checks, derives and freezes."""

    model: SerializeAsAny[ModelSpec]
    tokenizer: TokenizerSpec
    data: SerializeAsAny[Rows]
    collator: SerializeAsAny[CollatorSpec]
    optimizer: SerializeAsAny[OptimizerSpec]
    schedule: SerializeAsAny[ScheduleSpec]
    lora: SerializeAsAny[AdapterSpec]
    quantization: SerializeAsAny[QuantizationSpec]
    precision: PrecisionSpec
    deepspeed: SerializeAsAny[DeepSpeedSpec]
    fsdp: SerializeAsAny[FsdpSpec]
    trainer: SerializeAsAny[TrainerSpec]
    evaluation: EvaluationSpec
    checkpoint: CheckpointSpec
    tracking: SerializeAsAny[TrackingSpec]
    launch: SerializeAsAny[LaunchSpec]
    hardware: SerializeAsAny[HardwareSpec]
    generation: GenerationSpec
    fuse: FuseSpec
    quantize: SerializeAsAny[QuantizeSpec]
    hub: SerializeAsAny[HubSpec]
    card: CardSpec
    paths: PathsSpec
    hooks: SerializeAsAny[ExperimentSpec]


SINGLE: dict[str, type[Spec]] = {
    "tokenizer": TokenizerSpec,
    "precision": PrecisionSpec,
    "evaluation": EvaluationSpec,
    "checkpoint": CheckpointSpec,
    "generation": GenerationSpec,
    "fuse": FuseSpec,
    "card": CardSpec,
    "paths": PathsSpec,
}
"""Sections of one shape; every other section is a choice by `kind` in the registry."""

SCALARS: tuple[str, ...] = tuple(Scalars.model_fields)

SECTIONS: tuple[str, ...] = tuple(n for n in RunSpec.model_fields if n not in SCALARS)
