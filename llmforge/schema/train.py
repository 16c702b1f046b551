"""Schema of the run itself: trainer, evaluation, checkpoint, generation.

In: nothing. Out: spec classes for those sections. Lengths are optimizer steps unless a field
says otherwise; intervals are steps, a share of the run (`10%`), `epoch`, or null.
"""

from __future__ import annotations

from typing import Annotated, Literal

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
    SecretRef,
    Spec,
)


class TrainerSpec(Spec):
    """What every trainer has."""

    kind: str
    epochs: Annotated[float, Field(gt=0.0, le=100_000.0)] | None
    """Passes over the training rows; null when `max_steps` is given."""
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
    label_smoothing: Fraction
    """Share of the target probability spread over the vocabulary."""
    neftune_alpha: NonNegativeFloat | None
    """Noise on the embeddings in training (Jain et al. 2023, arXiv 2310.05914); null is off."""
    log_every: Annotated[Interval, Effect.BOOKKEEPING]
    """How often loss and learning rate are recorded."""
    workers: Annotated[NonNegativeInt, Effect.SPEED]
    """Processes that collate batches; 0 collates in the training process. Of streamed data more
    than one changes the order of the samples, and so the run."""
    group_by_length: bool | Auto
    """Batch samples of like length together: less padding, less random order."""


@register("trainer", "lm", "llmforge.build.trainer:ForgeTrainer")
class LmTrainer(TrainerSpec):
    """Causal language modelling: next-token cross-entropy on tokens with labels."""

    kind: Literal["lm"]


class EvaluationSpec(Spec):
    """What is measured on held-out rows."""

    effect = Effect.EVALUATION

    every: Interval
    """How often during training; the end is always evaluated when there is evaluation data."""
    at_start: bool
    """Measure the untrained model as well, as the baseline."""
    micro_batch: Annotated[PositiveInt | Auto, Effect.SPEED]
    """Samples per device and forward pass in evaluation."""
    exact_match_rows: NonNegativeInt
    """Rows answered by greedy generation and compared with the reference answer; 0 turns it off."""
    samples: NonNegativeInt
    """Sample answers printed and logged at the end."""


class CheckpointSpec(Spec):
    """What is kept."""

    effect = Effect.BOOKKEEPING

    every: Interval
    """How often a resumable checkpoint is written; the final model is always written."""
    keep: PositiveInt
    """Checkpoints kept; older ones are pruned, the best one never."""
    best: Annotated[str | None, Effect.NUMERICS]
    """Metric that picks the final model (`eval_loss`); null keeps the last state."""
    best_direction: Annotated[Literal["minimize", "maximize"], Effect.NUMERICS]
    """Whether the smaller or the larger metric is the better one."""
    resume: bool
    """Continue from the newest checkpoint when the run folder holds an interrupted run."""
    max_shard_size: str = Field(pattern=r"^\d+(\.\d+)?\s?[KMG]B$")
    """Largest weight file, such as `5GB`."""
    hub_push: bool
    """Upload the final model (the adapter alone under LoRA) after training."""
    hub_repository: str | None
    """Where to: `owner/name`."""
    hub_private: bool
    """Make the repository private when it does not exist yet."""
    hub_token: SecretRef
    """`env:NAME` of the variable that holds the token."""


class GenerationSpec(Spec):
    """How answers are generated (`llmforge generate`, sample answers)."""

    effect = Effect.EVALUATION

    max_new_tokens: PositiveInt
    """Longest answer in tokens."""
    sample: bool
    """Draw from the distribution; false is greedy. Exact match is always greedy."""
    temperature: Annotated[float, Field(gt=0.0)]
    """Divides the logits before sampling: below 1 is more certain, above 1 more varied."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)]
    """Draw from the fewest tokens whose probabilities reach this sum; 1 draws from all."""
    repetition_penalty: Annotated[float, Field(gt=0.0)]
    """Divides the logits of tokens that were used already; 1 is off."""
