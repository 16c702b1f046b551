"""Schema of where and how a run happens, and the root that holds all sections.

In: the other schema modules. Out: specs for `hardware`, `launch`,
`tracking`, `paths`, and `RunSpec`. `SECTIONS` is the one table of section names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, SerializeAsAny

from llmforge.registry import register
from llmforge.schema.adapter import AdapterSpec
from llmforge.schema.base import (
    Effect,
    PositiveInt,
    SecretRef,
    Spec,
)
from llmforge.schema.checkpoint import CheckpointSpec
from llmforge.schema.collate import CollatorSpec
from llmforge.schema.data import Rows
from llmforge.schema.distributed import DeepSpeedSpec, FsdpSpec
from llmforge.schema.evaluation import EvaluationSpec
from llmforge.schema.experiment import ExperimentSpec
from llmforge.schema.extension import Callbacks, Metrics
from llmforge.schema.fuse import FuseSpec
from llmforge.schema.generation import GenerationSpec
from llmforge.schema.hub import CardSpec, HubSpec
from llmforge.schema.launching import LaunchSpec
from llmforge.schema.model import ModelSpec, TokenizerSpec
from llmforge.schema.optim import OptimizerSpec, ScheduleSpec
from llmforge.schema.precision import PrecisionSpec, QuantizationSpec
from llmforge.schema.quantize import QuantizeSpec
from llmforge.schema.train import TrainerSpec


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
    num_gpus: Annotated[PositiveInt | None, Effect.BOOKKEEPING]
    """GPUs to train on, of each node: one process for each. More than 1 turns `launch=local` into
    `launch=torchrun`; null leaves it to section `launch`."""
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
