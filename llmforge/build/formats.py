"""Formats of the parts that are held apart from the other weights: norms, embeddings, adapter.

In: a plan and a model. Out: the same model, those parts in the format that `precision` says. The
arithmetic is autocast's, which needs no agreement between the formats of weights.

This module does not choose formats (`derive_precision` did) and does not touch quantized weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from llmforge.plan import Plan


def hold_parts(plan: Plan, model: Any) -> Any:
    """Norms and embeddings of a base in the format of `precision.norms`, `precision.embeddings`.

    To be called before an adapter is put around the model. Parameters stay the same objects, so
    that weights which are tied stay tied.

    Returns:
        The same model.
    """
    precision = plan.spec.precision
    for part, held in (
        (norms(model), precision.norms),
        (embeddings(model), precision.embeddings),
    ):
        if held == "float32":
            for weight in part:
                weight.data = weight.data.float()
    return model


def hold_adapter(plan: Plan, wrapped: Any) -> None:
    """What is trained under an adapter in the format of `precision.adapter`.

    PEFT holds its own matrices in float32 over a 16-bit base, but not the modules that are trained
    whole beside them.
    """
    precision = plan.spec.precision
    whole = precision.adapter != "weights"
    if precision.compute == "float32" and whole:
        return  # without autocast what is trained whole must have its neighbours' format
    name = "float32" if whole else str(precision.weights)
    for weight in wrapped.parameters():
        if weight.requires_grad:
            weight.data = weight.data.to(getattr(torch, name))


def norms(model: torch.nn.Module) -> Iterator[torch.nn.Parameter]:
    """Weights of the normalisation layers, which all families call `...Norm`."""
    for module in model.modules():
        if "norm" in type(module).__name__.lower():
            yield from module.parameters(recurse=False)


def embeddings(model: Any) -> Iterator[torch.nn.Parameter]:
    """Weights of all embeddings, and of the output head."""
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            yield from module.parameters(recurse=False)
    head = model.get_output_embeddings()
    if head is not None:
        yield from (weight for weight in head.parameters() if weight.is_floating_point())
