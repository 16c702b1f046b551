"""What a run writes: the final model and its checkpoints, in bytes.

In: facts and solved settings. Out: `Disk`. Weights are what they are in memory, without headers
(some kilobytes) and without tokenizer and records (some megabytes).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from llmforge.compiler.context import Context
from llmforge.compiler.memory.static import Static, static_memory
from llmforge.schema import RunSpec
from llmforge.schema.adapter import NoAdapter
from llmforge.schema.base import seconds_of
from llmforge.schema.model import ScratchModel


@dataclass(frozen=True)
class Disk:
    """Bytes."""

    model: int
    """Weights of the final model; under an adapter the adapter, and its base where that has no
    other home."""
    checkpoint: int
    """Weights and optimizer state of a checkpoint."""
    fused: int = 0
    """Weights of the fused model, where it is made after the training."""


def disk(spec: RunSpec, static: Static) -> Disk:
    """What is written for settings whose static memory is known, of all processes together."""
    weights, adapter, state = (static.whole[name] for name in ("weights", "adapter", "state"))
    if isinstance(spec.lora, NoAdapter):
        return Disk(weights, weights + state)
    base = weights if isinstance(spec.model, ScratchModel) else 0
    return Disk(adapter + base, adapter + state)


def disk_of(context: Context) -> Disk | None:
    """The same of a context; None while the model's shape is not known."""
    model = context.facts.model
    if model is None:
        return None
    static = static_memory(model, context.spec, context.facts.model_config)
    if static is None:
        return None
    return replace(disk(context.spec, static), fused=fused_bytes(context, model.parameters))


def fused_bytes(context: Context, parameters: int) -> int:
    """Bytes of the fused model that is made after the training; 0 where none is."""
    spec = context.spec
    if not spec.fuse.after_training or isinstance(spec.lora, NoAdapter):
        return 0
    dtype = str(spec.fuse.dtype)
    if dtype == "auto":  # as the base lies on the disk: its config says, or the run itself wrote it
        config = context.facts.model_config
        dtype = str(config.get("dtype") or config.get("torch_dtype") or spec.precision.weights)
    return parameters * (4 if dtype == "float32" else 2)


def checkpoints_written(spec: RunSpec, steps: int | None) -> int | None:
    """How many a run writes, before pruning; None where it is not known how often.

    The Trainer that saves by steps saves after the last one as well.
    """
    every = spec.checkpoint.every
    if every is None:
        return 0
    if not isinstance(every, int) or steps is None:
        return None
    return -(-steps // every)


def checkpoints_at_once(spec: RunSpec, steps: int | None) -> int | None:
    """Most checkpoints that lie on the disk together; None where it is not known how often.

    They are pruned after the next one is written, and the best one is kept beside the newest. By
    the clock there can be as many as steps: how long one takes is not known.
    """
    written = checkpoints_written(spec, steps)
    if seconds_of(spec.checkpoint.every) is not None:
        written = steps
    kept = spec.checkpoint.keep + (1 if spec.checkpoint.best else 0)
    return None if written is None else min(written, kept + 1)


def most_at_once(spec: RunSpec, sizes: Disk, steps: int | None) -> int | None:
    """Bytes of the final model and of all checkpoints at the most crowded moment."""
    count = checkpoints_at_once(spec, steps)
    if count is None:
        return None
    return sizes.model + sizes.fused + count * sizes.checkpoint
