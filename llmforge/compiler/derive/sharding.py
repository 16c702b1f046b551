"""What ZeRO's buffers follow from: the model's width.

In: a spec whose model is known. Out: `deepspeed.bucket_size`, `prefetch_bucket_size` and
`persistence_threshold` where they are `auto`, by the formulas of transformers' DeepSpeed
integration. Of a model whose width is not known here they stay `auto`, and transformers fills them
by the same formulas when the model is there.
"""

from __future__ import annotations

from collections.abc import Callable

from llmforge.compiler.context import Context, Derived, Step
from llmforge.schema.distributed import Zero

BUFFERS: dict[str, tuple[str, Callable[[int], int]]] = {
    "bucket_size": ("the square of the model's width", lambda width: width * width),
    "prefetch_bucket_size": (
        "0.9 times the square of the model's width",
        lambda width: width * width * 9 // 10,
    ),
    "persistence_threshold": ("10 times the model's width", lambda width: 10 * width),
}
"""Field -> its formula in words, and in numbers."""


def derive_sharding(context: Context) -> Step:
    """ZeRO's buffers from the model's width."""
    zero, model = context.spec.deepspeed, context.facts.model
    if not isinstance(zero, Zero) or model is None:
        return Step()
    return Step(
        tuple(
            Derived(f"deepspeed.{name}", formula(model.hidden), words, ("model",))
            for name, (words, formula) in BUFFERS.items()
            if getattr(zero, name) == "auto"
        )
    )
