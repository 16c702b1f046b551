"""What evaluation takes beside the model: whole logits where a metric asks for them, and answers.

In: facts of a model and solved settings. Out: bytes, by term. Generating keeps keys and values of
every token in each layer, for all answers at once; a layer's are copied when a token is added, so
one layer's stand there twice. Logits are those of the last token alone: in the compute format, in
float32, and once more as scores. While prompts are read, a layer's own needs stand beside the keys
and values of all layers; held to a GPU in `benchmarks/memory.md`.
"""

from __future__ import annotations

from llmforge.compiler.facts.families import ModelFacts
from llmforge.compiler.memory.activations_tape import BYTES
from llmforge.compiler.memory.loss import LossMemory, whole_logits
from llmforge.schema import RunSpec

FLOAT32_LOGITS = "float32_logits"
"""Term of what an evaluation takes in a run that trains, and not by itself."""

_ROW = 8
"""Bytes per token and word of one row: its float32 logits, and their logarithm."""

_SCORES = 8
"""Bytes per word of the vocabulary and answer beside the logits: float32 logits, and scores."""


def measures_logits(spec: RunSpec) -> bool:
    """Does a metric of the run look at logits? An evaluation then holds a batch's whole ones."""
    return any(type(metric).on == "logits" for metric in spec.metrics.values())


def evaluation_logits(
    model: ModelFacts, spec: RunSpec, loss: LossMemory, rows: int, length: int
) -> dict[str, int]:
    """Terms of logits and loss of one forward pass over `rows` padded to `length`; bytes.

    For metrics logits stay in the compute format, and one row's float32 copy and its logarithm are
    made at a time; what a metric of the user's own makes of them is not known, and not counted.
    `float32_logits` are the copy of whole logits that a wrapped model makes, in a run that trains
    with `trainer.loss_kernel=full`: an evaluation by itself does without.
    """
    whole = whole_logits(model, spec, rows, length)
    metrics = measures_logits(spec)
    if not metrics and loss.evaluation < whole:
        return {"logits_and_loss": loss.evaluation}
    total = max(loss.evaluation, whole)
    row = length * model.vocabulary
    alone = min(total, BYTES[str(spec.precision.compute)] * rows * row + _ROW * row)
    if metrics:
        return {"logits_and_loss": alone}
    return {"logits_and_loss": alone, FLOAT32_LOGITS: total - alone}


def answers_at_once(spec: RunSpec) -> int:
    """Answers generated side by side; 0 where none are asked, 1 where it is not solved yet."""
    evaluation = spec.evaluation
    if not (evaluation.exact_match_rows or evaluation.samples):
        return 0
    return evaluation.answers_at_once if isinstance(evaluation.answers_at_once, int) else 1


def answer_memory(
    model: ModelFacts, spec: RunSpec, answers: int, scratch: int, held: int
) -> dict[str, int]:
    """Terms of generating `answers` at once.

    `scratch` is what a layer needs to read the prompts, `held` the bytes of a key's or value's
    number: 4 where layers hand float32 to each other. Prompts are taken to be as long as
    `collator.max_length`, answers as `max_new_tokens`.
    """
    size = BYTES[str(spec.precision.compute)]
    longest = int(spec.collator.max_length) + spec.generation.max_new_tokens
    length = min(longest, model.context or longest)
    of_layer = 2 * answers * length * model.kv_heads * model.head_dim * held
    logits = answers * model.vocabulary * (size + _SCORES)
    if scratch > logits + of_layer:
        return {"key_value_cache": model.layers * of_layer, "scratch": scratch}
    return {"key_value_cache": (model.layers + 1) * of_layer, "logits": logits}
