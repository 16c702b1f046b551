"""Schema of sharding: `deepspeed` (ZeRO) and `fsdp` (FSDP2).

In: nothing. Out: one spec for each engine. What a DeepSpeed file says is completed to an ordinary
`zero` section when the plan is made (`compiler/preset_deepspeed.py`).

Batch sizes, accumulation, clipping, precision, optimizer and schedule stand in sections of their
own; the engines are told them, and nobody writes them twice.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from llmforge.registry import register
from llmforge.schema.base import Auto, Effect, NonNegativeInt, PositiveInt, Spec

HARMLESS: frozenset[str] = frozenset(
    {
        *("steps_per_print", "wall_clock_breakdown", "dump_state", "memory_breakdown"),
        *("flops_profiler", "comms_logger", "tensorboard", "wandb", "comet", "csv_monitor"),
        *("aio", "checkpoint", "nebula", "datastates", "timers", "disable_python_gc"),
        *("activation_checkpointing", "zero_optimization", "use_data_before_expert_parallelism"),
        *("zero_allow_untested_optimizer", "zero_force_ds_cpu_optimizer", "graph_harvesting"),
    }
)
"""Keys of DeepSpeed's JSON that change speed, memory or what is reported, and no number."""


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

    by_name: ClassVar[tuple[str, ...]] = ("more",)

    kind: Literal["zero"]
    stage: Literal[1, 2, 3]
    """1 shards optimizer state, 2 gradients as well, 3 weights as well."""
    offload_optimizer: bool
    """Keep optimizer state in CPU memory and take the step there: slower, for 12 bytes per trained
    number less on the GPU."""
    offload_parameters: bool
    """Stage 3: keep weights in CPU memory."""
    pin_memory: bool
    """Hold what is offloaded in page-locked CPU memory: faster copies, but memory that the system
    cannot swap."""
    bucket_size: PositiveInt | Auto
    """Elements reduced at once; `auto` is the square of the model's width."""
    gather_bucket_size: PositiveInt
    """Stages 1 and 2: elements gathered at once after the step."""
    gather_partitions: bool
    """Stages 1 and 2: gather updated weights in one operation, and not by a broadcast from each
    process."""
    reduce_scatter: bool
    """Each process gets only the gradients that it keeps, not all of them."""
    overlap_communication: bool
    """Reduce gradients while the backward pass goes on: faster, for more memory."""
    contiguous_gradients: bool
    """Copy gradients into one buffer as they come, so that memory is not cut into pieces."""
    round_robin_gradients: bool
    """Stages 1 and 2: spread the gradients over processes in turns, so that offloaded ones are
    copied in parallel."""
    sub_group_size: PositiveInt
    """Stage 3: parameters stepped at once, which bounds the memory of an offloaded step."""
    prefetch_bucket_size: NonNegativeInt | Auto
    """Stage 3: elements gathered ahead of their use; `auto` is 0.9 times the square of the model's
    width."""
    persistence_threshold: NonNegativeInt | Auto
    """Stage 3: tensors of fewer elements are not sharded; `auto` is 10 times the model's width."""
    max_live_parameters: PositiveInt
    """Stage 3: parameters that may be gathered at once on a device."""
    max_reuse_distance: PositiveInt
    """Stage 3: a weight that is used again within so many parameters stays gathered."""
    more: Annotated[dict[str, Any], Effect.NUMERICS]
    """Further keys of DeepSpeed's JSON, passed on as they are: `{aio: {block_size: 1048576}}`.
    Keys that the plan owns are refused."""
    claims: Annotated[dict[str, dict[str, Any]], Effect.BOOKKEEPING]
    """What a file of your own says of settings that the plan owns: key -> value and place. They are
    compared with the plan and used for nothing else."""

    @classmethod
    def effect_within(cls, field: str, name: str) -> Effect:  # noqa: ARG003 - one field has names
        """Profiling and buffers change no number; whatever else there is may."""
        return Effect.SPEED if name in HARMLESS else Effect.NUMERICS


@register("deepspeed", "file")
class ZeroFile(DeepSpeedSpec):
    """A DeepSpeed JSON of your own; it becomes an ordinary section when the plan is made."""

    kind: Literal["file"]
    path: str
    """The file. What the plan owns must agree with the plan, or say `auto`."""


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
    """FSDP2 with a shard per process. `trainer.gradient_checkpointing` is done by its own means."""

    kind: Literal["fsdp2"]
    reshard_after_forward: bool
    """Free gathered weights after the forward pass and gather them again for the backward pass:
    less memory, half as much traffic again. Gradients and optimizer state are sharded anyway."""
    offload: bool
    """Keep shards in CPU memory, and take the optimizer's step there."""
    wrap: list[str] | Auto
    """Classes of the modules that are gathered as one, such as `[LlamaDecoderLayer]`; `auto` takes
    what the model says of itself."""
    reduce_dtype: Literal["compute", "float32"]
    """Format in which gradients are summed over processes: that of the arithmetic, or float32."""
