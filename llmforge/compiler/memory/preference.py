"""What learning from pairs takes: log-probabilities in tiles, and the reference's own pass.

In: facts of a model, the solved settings, the sequences of a pass (two for each pair). Out:
`LossMemory`, and the reference's weights; bytes. By formula, from TRL's
`kernels/chunked_logprob.py`: logits are computed for up to 4,096 tokens and 32,768 words at a time
and never kept; a GPU folds such a tile in place, elsewhere float32 copies of it are made. All
tokens of a row are counted, though a GPU leaves out those of the prompt.
"""

from __future__ import annotations

from llmforge.compiler.facts.families import ModelFacts
from llmforge.compiler.memory.activations_tape import BYTES
from llmforge.schema import RunSpec
from llmforge.schema.adapter import NoAdapter
from llmforge.schema.preference import DpoSpec
from llmforge.schema.run import Device

TILE_TOKENS, TILE_WORDS = 4096, 32_768
"""TRL's `TOKEN_CHUNK_SIZE` and `_CHUNKED_LOGPROB_CHUNK_SIZE`, which a test holds."""

_COPIES_FORWARD, _COPIES_BACKWARD = 4, 8
"""Float32 copies of a tile where no GPU folds it."""


def tile(model: ModelFacts, spec: RunSpec, tokens: int, backward: bool = False) -> int:
    """Logits of one tile, and what is made of them; bytes."""
    held = min(tokens, TILE_TOKENS)
    size = held * TILE_WORDS * BYTES[str(spec.precision.compute)]
    if isinstance(spec.hardware, Device) and spec.hardware.device == "cuda":
        return size
    copies = _COPIES_BACKWARD if backward else _COPIES_FORWARD
    return size + 4 * copies * held * min(model.vocabulary, TILE_WORDS)


def hidden_states(model: ModelFacts, spec: RunSpec, tokens: int) -> int:
    """What the output head is given, kept for its backward pass; bytes."""
    return tokens * model.hidden * BYTES[str(spec.precision.compute)]


def head_gradient(model: ModelFacts, spec: RunSpec) -> int:
    """Of an output head that is trained, summed up in float32; bytes."""
    heads = sum(m.parameters for m in model.linear_modules if m.role == "head")
    return 4 * heads if isinstance(spec.lora, NoAdapter) else 0


def head_cast(model: ModelFacts, spec: RunSpec) -> int:
    """Words of a tile of the head in the compute format, where it is held in another; bytes."""
    precision = spec.precision
    held = "float32" if precision.embeddings == "float32" else str(precision.weights)
    compute = str(precision.compute)
    words = min(model.vocabulary, TILE_WORDS)
    return 0 if held == compute else words * model.hidden * BYTES[compute]


def reference_weights(spec: RunSpec, base: int) -> int:
    """A frozen second model; `base` are the bytes of the first one's weights."""
    trainer = spec.trainer
    return base if isinstance(trainer, DpoSpec) and trainer.reference == "copy" else 0


def reference_cast(model: ModelFacts, spec: RunSpec) -> int:
    """The largest weight of a frozen second model in the compute format, where it is held in
    another: autocast keeps no copies of frozen weights beyond their use; bytes."""
    trainer, compute = spec.trainer, str(spec.precision.compute)
    copied = isinstance(trainer, DpoSpec) and trainer.reference == "copy"
    if not copied or compute == str(spec.precision.weights):
        return 0
    inner = (m for m in model.linear_modules if m.role != "head")
    return BYTES[compute] * max((m.out_features * m.in_features for m in inner), default=0)


def passes_reference(spec: RunSpec) -> bool:
    """Does each step go through the reference as well?"""
    trainer = spec.trainer
    return isinstance(trainer, DpoSpec) and trainer.reference != "precomputed"
