"""What the logits and the loss take, beside what the layers keep.

In: facts of a model, the solved settings, the tokens of a pass. Out: `LossMemory`, bytes. With
`trainer.loss_kernel=full` there are at once, in the forward pass, logits in the compute format,
their float32 copy and their logarithm (10 bytes per token and word in 16 bits, 8 in float32), and
in the backward pass the logarithm, its gradient and that of the logits (12 bytes). Measured on a
GPU to within a thousandth (`benchmarks/memory.md`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from llmforge.compiler.facts.families import ModelFacts
from llmforge.compiler.memory.static import BYTES
from llmforge.schema import RunSpec
from llmforge.schema.adapter import NoAdapter, TargetedAdapter
from llmforge.schema.train import LmTrainer

_FORWARD, _FORWARD_SINGLE, _BACKWARD, _KEPT = 10, 8, 12, 4
"""Bytes per token and word: see the module's docstring."""

_SMOOTHED = 4
"""More of them under label smoothing: the negative logarithm is a tensor of its own."""

CHUNK_BYTES, LEAST_TOKENS = 2**27, 1024
"""Float32 logits of a chunk, and the fewest tokens of one; the same as in `build/loss_kernels.py`,
which a test holds."""


@dataclass(frozen=True)
class LossMemory:
    """Bytes."""

    kept: int
    """From the loss until its backward pass."""
    forward: int
    """The most at once while the loss is computed, `kept` among it."""
    backward: int
    """The most at once in the backward pass of the loss."""
    evaluation: int
    """The most at once in evaluation."""


def loss_memory(
    model: ModelFacts, spec: RunSpec, rows: int, length: int, evaluation_rows: int
) -> LossMemory:
    """What logits and loss take of a pass over `rows` padded to `length` tokens."""
    vocabulary, size = model.vocabulary, BYTES[str(spec.precision.compute)]
    trainer = spec.trainer
    kernel = trainer.loss_kernel if isinstance(trainer, LmTrainer) else "full"
    words = rows * length * vocabulary
    evaluated = evaluation_rows * length * vocabulary
    row = length * vocabulary
    if kernel == "full":
        capped = size * words if model.family in ("gemma2", "gemma3_text") else 0
        if model.family == "gemma3_text":
            capped = 0  # its configuration has no cap but by hand
        smoothed = _SMOOTHED * words if trainer.label_smoothing else 0
        forward = (_FORWARD if size == 2 else _FORWARD_SINGLE) * words
        # logits in the compute format and in float32; then one row's logarithm beside the latter
        evaluation = max((size + 4 if size == 2 else 4) * evaluated, 4 * evaluated + 4 * row)
        return LossMemory(
            kept=_KEPT * words + capped,
            forward=forward + capped + smoothed,
            backward=_BACKWARD * words + capped + smoothed,
            evaluation=evaluation,
        )
    head = _head_gradient(model, spec)
    if kernel == "liger":
        hidden = rows * length * model.hidden * size
        chunks = math.ceil(vocabulary / model.hidden)
        chunk = 2 ** math.ceil(math.log2(max(1, rows * length / chunks))) * vocabulary
        at_once = hidden + head + 2 * size * chunk
        return LossMemory(hidden + head, at_once, hidden + 2 * head, _chunk(vocabulary, evaluated))
    at_once = 3 * _chunk(vocabulary, words) + 2 * head
    return LossMemory(0, at_once, at_once, 2 * _chunk(vocabulary, evaluated))


def _chunk(vocabulary: int, words: int) -> int:
    """Float32 logits of one chunk of tokens; bytes."""
    tokens = max(LEAST_TOKENS, CHUNK_BYTES // (4 * vocabulary))
    return min(4 * words, 4 * tokens * vocabulary)


def _head_gradient(model: ModelFacts, spec: RunSpec) -> int:
    """Gradient of the output head where it is trained; bytes."""
    heads = [m for m in model.linear_modules if m.role == "head"]
    size = sum(m.parameters for m in heads)
    if isinstance(spec.lora, NoAdapter):
        return size * BYTES[str(spec.precision.weights)]
    saved = spec.lora.modules_to_save if isinstance(spec.lora, TargetedAdapter) else []
    whole = any(m.name.rpartition(".")[2] in saved for m in heads)
    return size * 4 if whole else 0
