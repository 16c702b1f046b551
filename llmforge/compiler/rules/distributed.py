"""LF4: sharding, launchers, devices."""

from __future__ import annotations

from collections.abc import Iterator

from llmforge.compiler.context import Context
from llmforge.compiler.derive.machine import hardware
from llmforge.compiler.rules.base import rule
from llmforge.compiler.rules.dividing import fitting_processes
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.schema import RunSpec
from llmforge.schema.adapter import NoAdapter
from llmforge.schema.distributed import Fsdp2, Zero
from llmforge.schema.launching import LocalLaunch, RayLaunch
from llmforge.schema.model import ScratchModel
from llmforge.schema.optim import BitsAndBytesOptimizer
from llmforge.schema.precision import BitsAndBytes


@rule("LF401", "ZeRO-3 with bitsandbytes")
def zero3_with_bitsandbytes(context: Context) -> Iterator[Diagnostic]:
    """ZeRO stage 3 shards weights, those packed by bitsandbytes as well: on CPUs each of two
    processes was seen to hold half of their bytes, and runs to save and to go on bit for bit. On
    GPUs, where other kernels read them, it has not been seen.

    Stage 2 is the safe choice: with a quantized base under adapters there is little left to shard.
    """
    spec = context.spec
    if (
        isinstance(spec.deepspeed, Zero)
        and spec.deepspeed.stage == 3
        and isinstance(spec.quantization, BitsAndBytes)
    ):
        yield Diagnostic(
            "LF401",
            "ZeRO stage 3 over a bitsandbytes base was seen to work on CPUs only",
            severity=Severity.WARNING,
            key="deepspeed.stage",
            hint="deepspeed=stage2",
        )


@rule("LF402", "DeepSpeed with FSDP")
def deepspeed_with_fsdp(context: Context) -> Iterator[Diagnostic]:
    """Both shard the same weights, gradients and optimizer state; only one can own them.

    Choose one: `fsdp=none` or `deepspeed=none`.
    """
    if isinstance(context.spec.deepspeed, Zero) and isinstance(context.spec.fsdp, Fsdp2):
        yield Diagnostic(
            "LF402", "DeepSpeed and FSDP are both on", key="fsdp.kind", hint="fsdp=none"
        )


@rule("LF403", "DeepSpeed is not installed")
def deepspeed_missing(context: Context) -> Iterator[Diagnostic]:
    """ZeRO is DeepSpeed's work, which is an extra: install it, or choose `deepspeed=none`.

    FSDP (`fsdp=full_shard`) shards with PyTorch alone.
    """
    if isinstance(context.spec.deepspeed, Zero) and not context.facts.has("deepspeed"):
        yield Diagnostic(
            "LF403",
            "DeepSpeed is needed but not installed",
            key="deepspeed.kind",
            hint="pip install 'llmforge[deepspeed]'",
        )


@rule("LF404", "sharding over one process")
def fsdp_over_one_process(context: Context) -> Iterator[Diagnostic]:
    """FSDP shards weights over processes; with one there is nothing to shard."""
    if isinstance(context.spec.fsdp, Fsdp2) and context.spec.launch.processes == 1:
        yield Diagnostic(
            "LF404",
            "FSDP over a single process",
            key="fsdp.kind",
            hint="fsdp=none",
        )


@rule("LF405", "more processes than devices")
def more_processes_than_devices(context: Context) -> Iterator[Diagnostic]:
    """Each process needs a GPU of its own; the nodes have no more than `hardware.count` each.

    How many nodes a Ray cluster has is not the plan's: there Ray waits for the GPUs, and says so.
    """
    machine, launch = hardware(context), context.spec.launch
    if isinstance(launch, RayLaunch) and launch.address is not None:
        return
    if context.spec.num_gpus is not None and context.spec.num_gpus > machine.count:
        return  # LF451 says so
    world, there = launch.processes, machine.count * launch.node_count
    if machine.device == "cuda" and isinstance(world, int) and world > there:
        nodes = f" of {launch.node_count} nodes" if launch.node_count > 1 else ""
        yield Diagnostic(
            "LF405",
            f"{world} processes on {there} device{'s' if there > 1 else ''}{nodes}",
            key="launch.processes",
            hint=f"launch.processes={fitting_processes(context, there, launch.node_count)}",
        )


@rule("LF406", "offloading weights that are not sharded")
def offload_without_stage3(context: Context) -> Iterator[Diagnostic]:
    """Only ZeRO stage 3 shards weights, so only it can keep them in CPU memory.

    Choose `deepspeed=stage3`, or offload the optimizer alone.
    """
    zero = context.spec.deepspeed
    if isinstance(zero, Zero) and zero.offload_parameters and zero.stage != 3:
        yield Diagnostic(
            "LF406",
            f"ZeRO stage {zero.stage} cannot offload weights",
            key="deepspeed.offload_parameters",
            hint="deepspeed.offload_parameters=false",
        )


@rule("LF407", "several processes by a local launch")
def local_launch_of_many(context: Context) -> Iterator[Diagnostic]:
    """`launch=local` is one process on one device; the others would never start.

    torchrun starts one per device: `launch=torchrun`.
    """
    launch = context.spec.launch
    many = isinstance(launch.processes, int) and launch.processes > 1
    if isinstance(launch, LocalLaunch) and many:
        yield Diagnostic(
            "LF407",
            f"a local launch of {launch.processes} processes",
            key="launch.processes",
            hint=f"launch=torchrun launch.processes={launch.processes}",
        )


@rule("LF409", "more data-loader processes than cores")
def more_workers_than_cores(context: Context) -> Iterator[Diagnostic]:
    """Each training process starts `trainer.workers` processes that collate batches. More of them
    than the node has cores take time from each other and from the training process.

    One or two are enough: samples are tokenised beforehand, and what is left is padding.
    """
    spec, cores = context.spec, hardware(context).cores
    processes = spec.launch.processes
    world = int(processes) if isinstance(processes, int) else 1
    here = min(max(1, world // spec.launch.node_count), hardware(context).count)
    started = here * spec.trainer.workers
    if started > cores:
        yield Diagnostic(
            "LF409",
            f"{started} data-loader processes on {cores} core{'s' if cores > 1 else ''}",
            severity=Severity.WARNING,
            key="trainer.workers",
            hint=f"trainer.workers={min(2, cores // here)}",
        )


@rule("LF420", "bitsandbytes optimizer over FSDP shards")
def bitsandbytes_optimizer_over_fsdp(context: Context) -> Iterator[Diagnostic]:
    """FSDP2 hands the optimizer its shard as a distributed tensor; the kernels of bitsandbytes
    (8-bit and paged optimizers) take plain ones and read past the shard's end.

    `optimizer=adamw` shards its state with the weights, which saves as much from four processes on.
    Under ZeRO (`deepspeed=stage2`) shards are plain tensors.
    """
    spec = context.spec
    if isinstance(spec.fsdp, Fsdp2) and isinstance(spec.optimizer, BitsAndBytesOptimizer):
        yield Diagnostic(
            "LF420",
            f"{spec.optimizer.kind} over FSDP shards",
            key="optimizer.kind",
            notes=("bitsandbytes issues 89 and 1633",),
            hint=f"optimizer={_adamw(spec)}",
        )


def _adamw(spec: RunSpec) -> str:
    """The AdamW whose rate fits what is trained."""
    if isinstance(spec.model, ScratchModel):
        return "adamw"
    return "adamw_finetune" if isinstance(spec.lora, NoAdapter) else "adamw_lora"


@rule("LF421", "FSDP with bitsandbytes")
def fsdp_with_bitsandbytes(context: Context) -> Iterator[Diagnostic]:
    """FSDP shards and gathers weights of one number format; bitsandbytes packs them as bytes, with
    constants beside them that FSDP does not see.

    Use ZeRO stage 2 (`fsdp=none deepspeed=stage2`) or plain data parallelism (`fsdp=none`): a
    frozen, quantized base is small, and it is all that FSDP would shard beyond these.
    """
    if isinstance(context.spec.fsdp, Fsdp2) and isinstance(context.spec.quantization, BitsAndBytes):
        yield Diagnostic(
            "LF421", "FSDP over a bitsandbytes base", key="fsdp.kind", hint="fsdp=none"
        )


@rule("LF422", "offloaded optimizer that runs on GPUs only")
def offloaded_bitsandbytes_optimizer(context: Context) -> Iterator[Diagnostic]:
    """With `deepspeed.offload_optimizer` the state lies in CPU memory and the step is taken there;
    the optimizers of bitsandbytes step on the GPU.

    Their paged forms move state to CPU memory by themselves: leave the offload out, or take an
    optimizer that steps on a CPU (`optimizer=adamw`).
    """
    zero, optimizer = context.spec.deepspeed, context.spec.optimizer
    if (
        isinstance(zero, Zero)
        and zero.offload_optimizer
        and isinstance(optimizer, BitsAndBytesOptimizer)
    ):
        yield Diagnostic(
            "LF422",
            f"{optimizer.kind} with its state offloaded to the CPU",
            key="deepspeed.offload_optimizer",
            hint="deepspeed.offload_optimizer=false",
        )
