"""What the logits and the loss take, beside what the layers keep.

In: facts of a model, the solved settings, the tokens of a pass. Out: `LossMemory`, bytes. With
`trainer.loss_kernel=full` there are at once, in the forward pass, logits in the compute format,
their float32 copy and their logarithm (10 bytes per token and word in 16 bits, 8 in float32), and
in the backward pass the logarithm, its gradient and that of the logits (12 bytes). Measured on a
GPU to within a thousandth (`benchmarks/memory.md`).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.compiler.facts.families import ModelFacts
from llmforge.compiler.memory.activations_tape import BYTES
from llmforge.compiler.memory.preference import (
    head_cast,
    head_gradient,
    hidden_states,
    tile,
)
from llmforge.schema import RunSpec
from llmforge.schema.adapter import NoAdapter, TargetedAdapter
from llmforge.schema.preference import DpoSpec
from llmforge.schema.train import LmTrainer

_FORWARD, _FORWARD_SINGLE, _BACKWARD = 10, 8, 12
"""Bytes per token and word: see the module's docstring."""

_SMOOTHED = 4
"""More of them under label smoothing: the negative logarithm is a tensor of its own."""

CHUNK_BYTES, LEAST_TOKENS = 2**27, 1024
"""Float32 logits of a chunk, and the fewest tokens of one; the same as in `build/loss_kernels.py`,
which a test holds."""


@dataclass(frozen=True)
class LossMemory:
    """Bytes."""

    forward: int
    """The most at once while the loss is computed."""
    backward: int
    """The most at once in the backward pass of the loss."""
    kept: int
    """From the loss until the layers' backward pass."""
    evaluation: int
    """The most at once in evaluation."""
    head_cast: int
    """Copy of the head in the compute format that the kernel makes for itself: the forward pass
    does not keep one."""
    tables: int
    """Tables of a tied embedding that exist at the end of the backward pass beside its gradient."""


def loss_memory(
    model: ModelFacts,
    spec: RunSpec,
    rows: int,
    length: int,
    evaluation_rows: int,
    config: Mapping[str, Any] | None = None,
) -> LossMemory:
    """What logits and loss take of a pass over `rows` padded to `length` tokens.

    `config` is the model's `config.json`: it says whether logits are capped.
    """
    trainer = spec.trainer
    if isinstance(trainer, DpoSpec):
        return _pairs(model, spec, rows * length, evaluation_rows * length)
    kernel = trainer.loss_kernel if isinstance(trainer, LmTrainer) else "full"
    if kernel == "full":
        return _whole(model, spec, rows, length, evaluation_rows, is_capped(model, config))
    size = BYTES[str(spec.precision.compute)]
    words = rows * length * model.vocabulary
    chunk = _chunk(model.vocabulary, words)
    evaluated = 2 * _chunk(model.vocabulary, evaluation_rows * length * model.vocabulary)
    cast, gradient = _head_cast(model, spec), _head_gradient(model, spec)
    if kernel == "liger":
        hidden = rows * length * model.hidden * size
        chunks = math.ceil(model.vocabulary / model.hidden)
        tokens = 2 ** math.ceil(math.log2(max(1, rows * length / chunks)))
        # logits of a chunk, their gradient in place; a gradient summed up in float32
        inside = 2 * size * tokens * model.vocabulary + cast + (3 * gradient if gradient else 0)
        kept = hidden + gradient
        return LossMemory(hidden + inside, kept, kept, evaluated + cast, cast, 1)
    capped = chunk * size // 4 if is_capped(model, config) else 0
    backward = 3 * chunk + capped + cast + gradient
    return LossMemory(2 * chunk + cast, backward, 0, evaluated + cast, cast, 1 if cast else 2)


def _pairs(model: ModelFacts, spec: RunSpec, tokens: int, evaluated: int) -> LossMemory:
    """Log-probabilities of pairs, of so many tokens. Pieces of the head are cast, never all."""
    hidden, cast = hidden_states(model, spec, tokens), head_cast(model, spec)
    gradient = 4 * tokens * model.hidden + head_gradient(model, spec)
    return LossMemory(
        forward=hidden + tile(model, spec, tokens) + cast,
        backward=hidden + gradient + tile(model, spec, tokens, backward=True) + cast,
        kept=hidden,
        evaluation=tile(model, spec, evaluated) + hidden_states(model, spec, evaluated) + cast,
        head_cast=_head_cast(model, spec),
        tables=1 if cast else 2,
    )


def is_capped(model: ModelFacts, config: Mapping[str, Any] | None) -> bool:
    """Do the logits pass through a tanh, which is kept? Gemma 2 does so unless told otherwise."""
    default = 30.0 if model.family == "gemma2" else None
    return (config or {}).get("final_logit_softcapping", default) is not None


def _whole(
    model: ModelFacts,
    spec: RunSpec,
    rows: int,
    length: int,
    evaluation_rows: int,
    capped_logits: bool,
) -> LossMemory:
    size = BYTES[str(spec.precision.compute)]
    row = length * model.vocabulary
    words = rows * row
    capped = size * words if capped_logits else 0
    more = capped + (_SMOOTHED * words if spec.trainer.label_smoothing else 0)
    return LossMemory(
        forward=(_FORWARD if size == 2 else _FORWARD_SINGLE) * words + more,
        backward=_BACKWARD * words + more,
        kept=0,
        evaluation=whole_logits(model, spec, evaluation_rows, length),
        head_cast=0,
        tables=2,
    )


def whole_logits(model: ModelFacts, spec: RunSpec, rows: int, length: int) -> int:
    """The most at once in an evaluation that holds the logits of `rows`: they are in the compute
    format and in float32; then one row's logarithm stands beside the latter. Bytes."""
    size, row = BYTES[str(spec.precision.compute)], length * model.vocabulary
    return max((size + 4 if size == 2 else 4) * rows * row, 4 * rows * row + 4 * row)


def _chunk(vocabulary: int, words: int) -> int:
    """Float32 logits of one chunk of tokens; bytes."""
    tokens = max(LEAST_TOKENS, CHUNK_BYTES // (4 * vocabulary))
    return min(4 * words, 4 * tokens * vocabulary)


def _head(model: ModelFacts) -> int:
    return sum(m.parameters for m in model.linear_modules if m.role == "head")


def _head_cast(model: ModelFacts, spec: RunSpec) -> int:
    """The head in the compute format, where it is held in another."""
    precision = spec.precision
    held = "float32" if precision.embeddings == "float32" else str(precision.weights)
    compute = str(precision.compute)
    return 0 if compute in ("float32", held) else _head(model) * BYTES[compute]


def _head_gradient(model: ModelFacts, spec: RunSpec) -> int:
    """Gradient of the output head where it is trained, in the compute format; bytes."""
    size = BYTES[str(spec.precision.compute)]
    if isinstance(spec.lora, NoAdapter):
        return _head(model) * size
    saved = spec.lora.modules_to_save if isinstance(spec.lora, TargetedAdapter) else []
    heads = [m for m in model.linear_modules if m.role == "head"]
    whole = any(m.name.rpartition(".")[2] in saved for m in heads)
    return _head(model) * size if whole else 0
