"""A merge of a loaded model, module by module.

In: the base's folder and the adapter's. Out: the weights and config.json of the fused model. Memory
holds one copy of the model in its own format, the largest module in float32, and a shard.

For bases whose files transformers rearranges while loading, and adapters whose start PEFT takes
out of the base; others stream (`stream.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from torch import nn

from llmforge.build.fusing.deltas import NotFusable, adapted, merge_unit, rows_of, units
from llmforge.build.fusing.formats import FLOATS, commonest, kept_in_float32, rounded
from llmforge.build.load import load_weights
from llmforge.build.model import dtype_of


def merge_whole(
    base: Path,
    adapter: Path,
    config: PeftConfig,
    staged: Path,
    dtype: torch.dtype | None,
    shard_size: int | str,
) -> dict[str, Any]:
    """Merge, and write weights and config.json to `staged`.

    Raises:
        NotFusable: the adapter is not one of this base's.
    """
    model = load_weights(base, None)
    kept = kept_in_float32(model, dtype)
    own = int(model.get_input_embeddings().num_embeddings)
    rows = rows_of(adapter, model) or own
    if rows != own:
        model.resize_token_embeddings(rows, mean_resizing=False)
    formats = {name: weight.dtype for name, weight in model.state_dict().items()}

    def goal(name: str, now: torch.dtype) -> torch.dtype:
        if dtype is None or now not in FLOATS:
            return formats.get(name, now)
        return torch.float32 if kept(name) else dtype

    modules = _merge_units(model, adapter, config, goal)
    for name, weight in model.named_parameters():
        weight.data = rounded(name, weight.data, goal(name, weight.dtype))
    untied = _tie_again(model)
    common = commonest((weight.dtype, weight.numel()) for weight in model.parameters())
    model.config.dtype, model.config.use_cache = dtype_of(common), True
    tensors = len(model.state_dict())
    model.save_pretrained(staged, max_shard_size=shard_size)
    written = sorted(staged.glob("*.safetensors"))
    return {
        "way": "whole", "dtype": common, "modules": modules, "tensors": tensors,
        "bytes": sum(path.stat().st_size for path in written),
        "files": tuple(path.name for path in written), "untied": untied, "rows": rows,
    }  # fmt: skip


def _merge_units(
    model: Any, adapter: Path, config: PeftConfig, goal: Callable[[str, torch.dtype], torch.dtype]
) -> int:
    """Put each merged module in its place, in its final format.

    Returns:
        How many there were.
    """
    tied = model.all_tied_weights_keys
    shared = {model.get_parameter(name).data_ptr() for name in tied.values()}
    wrapped = adapted(model, adapter, config, hollow=False)
    found = dict(units(wrapped))

    def unread(name: str) -> torch.Tensor:
        raise NotFusable(f"the adapter in {adapter} has no weights for {name}")

    for name, unit in found.items():
        _own_memory(unit, shared)
        plain = merge_unit(model, name, unit, unread)
        for key, weight in plain.named_parameters():
            full = f"{name}.{key}"
            weight.data = rounded(full, weight.data, goal(full, weight.dtype))
    # the library would otherwise save an adapter that is no longer there
    model._hf_peft_config_loaded = False  # noqa: SLF001 - as its own unloading does
    vars(model).pop("peft_config", None)
    return len(found)


def _tie_again(model: Any) -> bool:
    """Tie what is still equal. Returns whether something is no longer."""
    tied: dict[str, str] = dict(model.all_tied_weights_keys)
    untied = any(
        not torch.equal(model.get_parameter(one), model.get_parameter(other))
        for one, other in tied.items()
    )
    if untied:
        model.config.tie_word_embeddings = False
        model.config.get_text_config().tie_word_embeddings = False
        model.all_tied_weights_keys = {}
    else:
        model.tie_weights()
    return untied


def _own_memory(unit: nn.Module, shared: set[int]) -> None:
    """Part an adapted module's weights from those they are tied to: only this one changes."""
    for part in unit.modules():
        for key, weight in list(part.named_parameters(recurse=False)):
            if weight.data_ptr() in shared:
                setattr(part, key, nn.Parameter(weight.detach().clone(), requires_grad=False))
