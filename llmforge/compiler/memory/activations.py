"""The bytes that a forward pass keeps for the backward pass.

In: facts of a model, what the pass is asked for and, where it is known, the `config.json`. Out:
`Activations`, or the same as a table of named terms. The pass is played on a tape that follows the
rules of PyTorch's autograd and autocast (`activations_tape.py`), in the order of operations of
transformers, PEFT and bitsandbytes (`activations_layers.py`, `activations_attention.py`,
`activations_linear.py`), without torch; tests hold it to what torch keeps on the CPU, to the byte.
CUDA differs in dropout masks (a byte each), and in norms and softmax, which its autocast computes
in float32; both are told by `ForwardPass.device`.

A family without a recipe (a probed one) is taken for Llama of the sizes in the facts, with plain
instead of gated feed-forward layers, or fused projections, where its linear modules are named so.

Not here: logits and loss, weights, gradients, memory that an operation needs while it runs, and the
few bytes of a random generator's state. The tower of a model that also sees is left out: language
data do not run it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.compiler.facts.families import ModelFacts
from llmforge.compiler.memory.activations_play import play
from llmforge.compiler.memory.activations_recipes import ForwardPass

__all__ = ["Activations", "ForwardPass", "activations", "terms"]


@dataclass(frozen=True)
class Activations:
    """Bytes; of a family without a recipe they are Llama's terms with the sizes of the facts."""

    layers: int
    """Kept by all decoder layers until the backward pass; with checkpointing, their inputs, and
    what checkpointing cannot drop (`pinned`)."""
    outside: int
    """Kept outside the layers: token ids, rotary tables, final norm, the head's input where the
    head is trained; with checkpointing also the mask that all layers are handed."""
    one_layer: int
    """Kept by the largest layer while it is computed again, beside its input; without
    checkpointing the same, as a part of `layers`."""
    weight_casts: int
    """Copies of weights in the compute format that are kept until the backward pass; with
    checkpointing those outside the layers."""
    forward_casts: int = 0
    """Copies of trained weights that autocast holds until the loss is computed, the
    trained ones of `weight_casts` among them; freed before the backward pass unless kept."""
    pinned: int = 0
    """Of `layers`: what is held until the backward pass has ended (inputs of 8-bit modules)."""
    one_layer_casts: int = 0
    """Copies of weights that the largest layer makes when it is computed again; without
    checkpointing, its part of `weight_casts`."""


def activations(
    model: ModelFacts, asked: ForwardPass, config: Mapping[str, Any] | None = None
) -> Activations:
    """What a forward pass keeps.

    Args:
        model: facts, from formulas or probed; a probed family is estimated by Llama's terms.
        asked: the pass.
        config: the model's `config.json`, for what facts do not hold: dropouts, activation
            function, sliding windows, share of rotary channels. Without it, or for keys it lacks,
            the defaults of the family's configuration class.
    """
    found = play(model, asked, config)
    inside, outside = found.layers, found.outside
    if not asked.checkpointing:
        return Activations(
            layers=inside.bytes,
            outside=outside.bytes,
            one_layer=found.largest.bytes,
            weight_casts=inside.casts + outside.casts,
            pinned=found.pinned,
            forward_casts=found.forward_casts,
            one_layer_casts=found.largest.casts,
        )
    return Activations(
        layers=found.inputs + found.pinned,
        outside=outside.bytes + found.handed,
        one_layer=found.largest.bytes,
        weight_casts=outside.casts,
        pinned=found.pinned,
        forward_casts=found.forward_casts,
        one_layer_casts=found.largest.casts,
    )


def terms(
    model: ModelFacts, asked: ForwardPass, config: Mapping[str, Any] | None = None
) -> dict[str, int]:
    """Bytes by name of what all layers keep, copies of weights among them, the largest first.

    With checkpointing: what the largest layer keeps while it is computed again.
    """
    found = play(model, asked, config)
    kept = found.largest if asked.checkpointing else found.layers
    return dict(kept.terms.most_common())
