"""Parameter groups: which weights learn at which rate, and which of them decay.

In: a model, the names of its weights that decay, lowered keywords (`parameter_groups` of a plan).
Out: groups as every optimizer of PyTorch takes them. Each trainable weight is in exactly one; of
tied weights there is one.

Roles, told by where a weight stands: an embedding (a weight of any `nn.Embedding`, a tied output
head included), the output head, a B matrix of LoRA, the rest. Depth: embeddings lie below layer 0,
what belongs to no layer above the last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

_B_MATRICES = ("lora_B", "lora_embedding_B")


@dataclass(frozen=True)
class _Place:
    """What decides the group of one weight."""

    decays: bool
    matrix: bool
    rate: float | None


def parameter_groups(
    model: nn.Module, decaying: Collection[str], keywords: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Groups of all weights that are trained.

    Args:
        model: the model, adapters included.
        decaying: names of the weights that decay (the Trainer's: all but norms and biases).
        keywords: `lr`, `weight_decay`, `decay_norms`, `lora_plus_ratio`, `embedding_lr`,
            `layer_decay`, `matrices_apart`.

    Returns:
        Dicts with `params`, `weight_decay`, `matrix` when matrices stand apart, and `lr` where it
        is not the optimizer's own.

    Raises:
        ValueError: a rate was given for weights that this model does not train.
    """
    embeddings = {
        id(weight)
        for module in model.modules()
        if isinstance(module, nn.Embedding)
        for weight in module.parameters(recurse=False)
    }
    head = {id(weight) for weight in _output_head(model)}
    depths = dict(_depths(model, embeddings)) if keywords["layer_decay"] is not None else {}
    found: dict[_Place, list[nn.Parameter]] = {}
    seen = {"embedding_lr": False, "lora_plus_ratio": False}
    for name, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        factor, rate = 1.0, None
        if keywords["layer_decay"] is not None:
            factor *= keywords["layer_decay"] ** depths[name]
        if keywords["lora_plus_ratio"] is not None and set(name.split(".")) & set(_B_MATRICES):
            factor *= keywords["lora_plus_ratio"]
            seen["lora_plus_ratio"] = True
        if keywords["embedding_lr"] is not None and id(weight) in embeddings:
            rate = keywords["embedding_lr"]
            seen["embedding_lr"] = True
        elif factor != 1.0:
            rate = keywords["lr"] * factor
        place = _Place(
            decays=keywords["decay_norms"] or name in decaying,
            matrix=keywords["matrices_apart"]
            and weight.ndim == 2
            and id(weight) not in embeddings | head,
            rate=rate,
        )
        found.setdefault(place, []).append(weight)
    for key, there in seen.items():
        if keywords[key] is not None and not there:
            raise ValueError(f"optimizer.{key} is given, but no such weight is trained")
    order = sorted(found, key=lambda place: (not place.decays, not place.matrix))
    return [_group(place, found[place], keywords) for place in order]


def _group(
    place: _Place, weights: list[nn.Parameter], keywords: Mapping[str, Any]
) -> dict[str, Any]:
    group: dict[str, Any] = {
        "params": weights,
        "weight_decay": keywords["weight_decay"] if place.decays else 0.0,
    }
    if place.rate is not None:
        group["lr"] = place.rate
    if keywords["matrices_apart"]:
        group["matrix"] = place.matrix
    return group


def _output_head(model: nn.Module) -> Iterator[nn.Parameter]:
    ask = getattr(model, "get_output_embeddings", None)
    head = ask() if ask is not None else None
    if isinstance(head, nn.Module):
        yield from head.parameters()


def _depths(model: nn.Module, embeddings: Collection[int]) -> Iterator[tuple[str, int]]:
    """Name and number of layers above: 0 for the head, 1 for the last layer, most for embeddings.

    Raises:
        ValueError: the model has no list of layers.
    """
    count = int(model.config.num_hidden_layers)
    lists = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    if not lists:
        raise ValueError(f"optimizer.layer_decay needs a model with a list of {count} layers")
    prefix = f"{lists[0]}."
    for name, weight in model.named_parameters():
        if name.startswith(prefix):
            yield name, count - int(name.removeprefix(prefix).partition(".")[0])
        else:
            yield name, count + 1 if id(weight) in embeddings else 0
