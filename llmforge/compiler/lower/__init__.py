"""Specs to the keywords of the libraries that do the work; the only place that knows them.

In: a solved context. Out: entries `(key, value, reason, reads)` under `training_arguments`, `trl`,
`optimizer`, `parameter_groups`, `clipping`, `schedule`, `model`, `lora_config`,
`quantization_config` and `fsdp`. A test binds every keyword to the
installed signature, so a renamed argument is found before a user finds it.
"""

from __future__ import annotations

from llmforge.compiler.context import Context, Derived
from llmforge.compiler.lower.adapter import adapter
from llmforge.compiler.lower.base import Lowered
from llmforge.compiler.lower.distributed import sharding
from llmforge.compiler.lower.model import model
from llmforge.compiler.lower.optimizer import clipping, optimizer_kwargs, parameter_groups
from llmforge.compiler.lower.preference import trl
from llmforge.compiler.lower.quantization import quantization
from llmforge.compiler.lower.schedule import schedule_kwargs
from llmforge.compiler.lower.training import training_arguments


def lower(context: Context) -> list[Derived]:
    """All lowered keywords, keys relative to the plan's `lowered` part."""
    return [
        *_under("training_arguments", training_arguments(context)),
        *_under("trl", trl(context)),
        *_under("optimizer", optimizer_kwargs(context)),
        *_under("parameter_groups", parameter_groups(context)),
        *_under("clipping", clipping(context)),
        *_under("schedule", schedule_kwargs(context)),
        *_under("model", model(context)),
        *_under("lora_config", adapter(context)),
        *_under("quantization_config", quantization(context)),
        *_under("fsdp", sharding(context)),
    ]


def _under(part: str, lowered: Lowered | None) -> list[Derived]:
    if lowered is None:
        section = part.removesuffix("_config")
        return [Derived(part, None, f"`{section}` needs none", (f"{section}.kind",))]
    return [
        Derived(f"{part}.{name}", value, f"keyword `{name}`", (source,))
        for name, (value, source) in lowered.items()
    ]
