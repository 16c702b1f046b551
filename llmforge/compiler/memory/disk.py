"""What a run writes: the final model and its checkpoints, in bytes.

In: facts and solved settings. Out: `Disk`. Weights are what they are in memory, without headers
(some kilobytes) and without tokenizer and records (some megabytes).
"""

from __future__ import annotations

from dataclasses import dataclass

from llmforge.compiler.memory.static import Static
from llmforge.schema import RunSpec
from llmforge.schema.adapter import NoAdapter
from llmforge.schema.model import ScratchModel


@dataclass(frozen=True)
class Disk:
    """Bytes."""

    model: int
    """Weights of the final model; under an adapter the adapter, and its base where that has no
    other home."""
    checkpoint: int
    """Weights and optimizer state of a checkpoint."""


def disk(spec: RunSpec, static: Static) -> Disk:
    """What is written for settings whose static memory is known, of all processes together."""
    world = int(spec.launch.processes)
    sharded = spec.deepspeed.kind != "none" or spec.fsdp.kind != "none"
    shares = world if sharded else 1
    weights = static.held.get("weights", 0)
    adapter = static.held.get("adapter", 0)
    state = static.held.get("optimizer_state", 0) + static.host.get("optimizer_state", 0)
    state += static.held.get("master_weights", 0) + static.host.get("master_weights", 0)
    if isinstance(spec.lora, NoAdapter):
        return Disk(weights, weights + shares * state)
    base = weights if isinstance(spec.model, ScratchModel) else 0
    return Disk(adapter + base, adapter + shares * state)
