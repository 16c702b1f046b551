"""Schema of the training loop.

In: nothing. Out: spec classes for `trainer`. Lengths are optimizer steps unless a field says
otherwise; intervals are steps, a share of the run (`10%`), `epoch`, or null.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from llmforge.registry import register
from llmforge.schema.base import (
    Auto,
    Effect,
    Fraction,
    Interval,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveInt,
    Spec,
)
from llmforge.schema.training_arguments import effect_of_extra

Passes = Annotated[float, Field(gt=0.0, le=100_000.0)]
CompileMode = Literal["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"]


class TrainerSpec(Spec):
    """What every trainer has."""

    METRICS: ClassVar[tuple[str, ...]] = ("loss", "perplexity", "tokens")
    """What an evaluation tells: `eval_<name>`, of several sets `eval_<set>_<name>` too."""
    SEQUENCES: ClassVar[int] = 1
    """Sequences that one sample adds to a forward pass."""
    by_name = ("extra",)

    kind: str
    epochs: Passes | Auto | None
    """Passes over the training rows; null when `max_steps` is given. `auto` is null then too, else
    `epochs_scratch` or `epochs_finetune`, by where the weights come from."""
    max_steps: PositiveInt | None
    """Optimizer steps; null when `epochs` is given."""
    global_batch: PositiveInt | Auto
    """Samples per optimizer step over all devices = micro_batch x accumulation x processes. With
    `collator.packing`, a row packed full of samples counts as one."""
    micro_batch: PositiveInt | Auto
    """Samples per device and forward pass."""
    accumulation: PositiveInt | Auto
    """Forward passes per optimizer step."""
    gradient_checkpointing: Annotated[bool | Auto, Effect.SPEED]
    """Recompute activations in the backward pass: less memory, about a third more work."""
    loss_kernel: Annotated[Literal["auto", "full", "chunked", "liger"], Effect.SPEED]
    """How the loss is computed; the same number each way, up to rounding. `full` holds the logits
    of all tokens and a float32 copy of them (16,384 tokens x 128,000 words: 12 GB and as much again
    in the backward pass). `chunked` computes logits for some hundred tokens at a time, and once
    more in the backward pass; tokens without a label are left out. `liger` does it in one kernel
    (package liger-kernel, CUDA). `auto` takes the leanest that is exact for the model."""
    compile: Annotated[bool, Effect.SPEED]
    """Compile the model with `torch.compile`: minutes at the start, then faster steps, most of all
    when batches have one shape (`collator.packing`)."""
    compile_backend: Annotated[str, Effect.SPEED]
    """Who compiles, with `compile`: a backend of `torch.compile`, usually `inductor`."""
    compile_mode: Annotated[CompileMode | None, Effect.SPEED]
    """How hard it tries, with `compile`: `reduce-overhead` records CUDA graphs, the `max-autotune`
    modes measure kernels, which takes many minutes more; null is torch's own."""
    label_smoothing: Fraction
    """Share of the target probability spread over the vocabulary."""
    neftune_alpha: NonNegativeFloat | None
    """Noise on the embeddings in training (Jain et al. 2023, arXiv 2310.05914); null is off."""
    log_every: Annotated[Interval, Effect.BOOKKEEPING]
    """How often loss and learning rate are recorded."""
    workers: Annotated[NonNegativeInt, Effect.SPEED]
    """Processes that collate batches; 0 collates in the training process. Of streamed data more
    than one changes the order of the samples, and so the run."""
    prefetch: Annotated[PositiveInt | None, Effect.SPEED]
    """Batches that each process of `workers` has ready in advance; null is torch's own, two."""
    keep_workers: Annotated[bool, Effect.SPEED]
    """Keep the processes of `workers` from one pass to the next instead of starting them anew."""
    pin_memory: Annotated[bool, Effect.SPEED]
    """Collate into page-locked memory, from which a GPU copies faster; nothing on a CPU."""
    group_by_length: bool | Auto
    """Batch samples of like length together: less padding, less random order."""
    epochs_scratch: Annotated[Passes, Effect.BOOKKEEPING]
    """What `epochs: auto` is for random weights."""
    epochs_finetune: Annotated[Passes, Effect.BOOKKEEPING]
    """What `epochs: auto` is for pretrained weights."""
    extra: dict[str, Any]
    """Arguments of transformers' `TrainingArguments` that have no key of their own here, by their
    own names: `trainer.extra.ddp_timeout=7200`. Names and types are checked against the installed
    version when the plan is made; what another key owns is refused with that key. Each counts for
    the fingerprint by what it changes (`docs/training-arguments.md`)."""

    @classmethod
    def effect_within(cls, field: str, name: str) -> Effect:
        """Of one argument of `extra`; one that nobody has classed counts as changing weights."""
        return effect_of_extra(name) if field == "extra" else cls.effect_of(field)


@register("trainer", "lm", "llmforge.build.trainer:ForgeTrainer")
class LmTrainer(TrainerSpec):
    """Causal language modelling: next-token cross-entropy on tokens with labels."""

    kind: Literal["lm"]
