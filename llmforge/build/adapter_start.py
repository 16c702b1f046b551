"""Where an adapter starts when that takes more than random numbers: the base's weights, or data.

In: a plan and a wrapped model. Out: the same model, its adapter set.

This module does not wrap models (`adapter.py`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import initialize_lora_eva_weights
from peft.tuners.lora import LoraLayer
from safetensors import safe_open
from torch.utils.data import DataLoader, IterableDataset, RandomSampler

from llmforge.build.model import SAFE_WEIGHTS
from llmforge.plan import Plan
from llmforge.schema.adapter import Eva

ADAPTER = "default"
START = "llmforge_start"
"""Attribute of a LoRA layer: the matrices A and B that it started with."""


def lora_layers(wrapped: Any) -> Iterator[tuple[str, LoraLayer]]:
    """Every LoRA layer with its name in the base model."""
    for name, module in wrapped.get_base_model().named_modules():
        if isinstance(module, LoraLayer) and ADAPTER in module.lora_A:
            yield name, module


def keep_start(wrapped: Any) -> None:
    """Remember what PiSSA and OLoRA took out of the base: the final adapter is made from it."""
    for _, layer in lora_layers(wrapped):
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        setattr(layer, START, (a.detach().cpu().clone(), b.detach().cpu().clone()))


def undo_rounding(plan: Plan, wrapped: Any) -> None:
    """LoftQ's start with one iteration: B A is the best rank-r part of what 4-bit rounding took.

    With W the weight in the checkpoint, Q what the rounded one stands for and s the adapter's
    scale, s B A are the r largest singular parts of W - Q (arXiv 2310.08659, equation 9).

    Raises:
        FileNotFoundError: the base's safetensors are not on this machine.
        ValueError: no adapted module holds 4-bit weights.
    """
    import bitsandbytes

    weights = _Checkpoint(plan)
    found = 0
    for name, layer in lora_layers(wrapped):
        rounded = layer.get_base_layer().weight
        state = getattr(rounded, "quant_state", None)
        if state is None:
            continue
        held = bitsandbytes.functional.dequantize_4bit(rounded.data, state).float()
        lost = _difference(weights.get(f"{name}.weight").to(held.device).float(), held)
        u, s, v = torch.linalg.svd(lost, full_matrices=False)
        r = layer.r[ADAPTER]
        root = (s[:r] / layer.scaling[ADAPTER]).sqrt()
        a, b = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
        a.data.copy_(root[:, None] * v[:r])
        b.data.copy_(u[:, :r] * root)
        found += 1
    if not found:
        raise ValueError("LoftQ found no 4-bit weight among the adapted modules")


def _difference(weight: torch.Tensor, held: torch.Tensor) -> torch.Tensor:
    """Weight minus its rounding; GPT-2's files hold weights transposed."""
    if weight.shape != held.shape:
        return weight.T - held
    if weight.shape[0] != weight.shape[1]:
        return weight - held
    # a square weight does not tell which way it lies: the rounding is close to one of the two
    straight, turned = weight - held, weight.T - held
    return straight if straight.norm() <= turned.norm() else turned


class _Checkpoint:
    """Tensors of a checkpoint by name, read one at a time."""

    def __init__(self, plan: Plan) -> None:
        self._files = _weight_files(plan)

    def get(self, name: str) -> torch.Tensor:
        """Raises `KeyError` when the checkpoint has no tensor of that name."""
        # some files leave out the name of the model inside the language model
        for known in (name, name.partition(".")[2]):
            if known in self._files:
                with safe_open(str(self._files[known]), framework="pt") as opened:
                    found: torch.Tensor = opened.get_tensor(known)
                    return found
        raise KeyError(f"the checkpoint has no tensor {name}")


def _weight_files(plan: Plan) -> dict[str, Path]:
    """Name of each tensor -> the file that holds it."""
    lowered = plan.lowered["model"]
    source, revision = str(lowered["pretrained_model_name_or_path"]), lowered.get("revision")
    single, index = (_local(source, revision, name) for name in SAFE_WEIGHTS)
    if single is not None:
        with safe_open(str(single), framework="pt") as opened:
            return dict.fromkeys(opened.keys(), single)
    if index is None:
        raise FileNotFoundError(f"LoftQ needs the safetensors of {source} on this machine")
    names: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
    return {tensor: index.with_name(file) for tensor, file in names.items()}


def _local(source: str, revision: str | None, name: str) -> Path | None:
    if Path(source).is_dir():
        path = Path(source) / name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source, name, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def start_from_data(
    plan: Plan, wrapped: Any, samples: Any, collate: Callable[[Any], dict[str, Any]]
) -> None:
    """EVA's start: A spans the directions in which the inputs of each module vary most.

    Args:
        plan: its `lora` section is of kind `eva`.
        wrapped: the adapted model; moved to a GPU where there is one.
        samples: the training set, as `Parts.train`.
        collate: samples to a batch, as `Parts.collator`.

    Raises:
        ValueError: the directions have not settled after `lora.batches` batches.
    """
    spec = plan.spec
    assert isinstance(spec.lora, Eva)  # noqa: S101 - the caller looks at the kind
    limit, batch = spec.lora.batches, int(spec.trainer.micro_batch)
    sampler = None
    if not isinstance(samples, IterableDataset):
        drawn = torch.Generator().manual_seed(spec.seed)
        sampler = RandomSampler(samples, generator=drawn)
    loader: Any = DataLoader(samples, batch_size=batch, sampler=sampler, collate_fn=collate)
    if isinstance(samples, IterableDataset):
        loader = _Sized(loader, limit)
    if torch.cuda.is_available() and wrapped.device.type == "cpu":
        wrapped.to("cuda")
    seen = 0

    def forward(model: Any, inputs: dict[str, Any]) -> Any:
        nonlocal seen
        seen += 1
        if seen > limit:
            raise ValueError(
                f"EVA's directions have not settled after {limit} batches of {batch}; lower "
                "lora.similarity or lora.r, or allow more lora.batches"
            )
        return model(**{key: value for key, value in inputs.items() if key != "labels"})

    initialize_lora_eva_weights(
        wrapped, dataloader=loader, forward_fn=forward, show_progress_bar=False
    )


class _Sized:
    """A stream of batches under a number of them; PEFT asks for one and only that it is not 0."""

    def __init__(self, batches: Any, length: int) -> None:
        self._batches, self._length = batches, length

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return iter(self._batches)
