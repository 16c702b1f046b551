"""A merge tensor by tensor: read, changed, written.

In: a hollow model, the base's files, an adapter. Out: the weights and config.json of the fused
model, in the names of the base's own files. Memory holds one shard and the largest module.

This module does not choose between this way and the other (`merge.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from llmforge.build.fusing.deltas import adapted, empty, is_missing, merge_unit, rows_of, units
from llmforge.build.fusing.files import WeightFiles, return_memory, write_config, write_shards
from llmforge.build.fusing.formats import FLOATS, commonest, kept_in_float32, rounded


def one_by_one(model: Any, files: WeightFiles) -> tuple[dict[str, str], str | None]:
    """Name in the model -> name in the file; and why they are not one by one, if they are not."""
    state = model.state_dict()
    transforms = get_model_conversion_mapping(model)
    renamings = [found for found in transforms if isinstance(found, WeightRenaming)]
    converters = [found for found in transforms if isinstance(found, WeightConverter)]
    names: dict[str, str] = {}
    for stored in files.stored:
        name, converted = rename_source_key(
            stored, renamings, converters, model.base_model_prefix, state
        )
        if converted is not None and name in state:
            return {}, f"transformers makes {name} of several tensors of the file"
        if name in state:
            names[name] = stored
    tied = model.all_tied_weights_keys
    for name, weight in state.items():
        stored = names.get(name) or names.get(tied.get(name, ""), "")
        if not stored:
            return {}, f"the file has no tensor for {name}"
        if files.stored[stored].shape != tuple(weight.shape):
            return {}, f"{stored} has another shape in the file than in the model"
        if files.stored[stored].dtype.is_floating_point and (
            files.stored[stored].dtype not in FLOATS
        ):
            return {}, f"{stored} is of type {files.stored[stored].dtype}"
    return names, None


class Stream:
    """One merge tensor by tensor."""

    def __init__(
        self,
        model: Any,
        files: WeightFiles,
        names: dict[str, str],
        dtype: torch.dtype | None,
        say: Callable[[str], None],
    ) -> None:
        self._model, self._files, self._names = model, files, names
        self._tied: dict[str, str] = dict(model.all_tied_weights_keys)
        self._dtype, self._say = dtype, say
        self._units: dict[str, Any] = {}
        self._ready: dict[str, torch.Tensor] = {}
        self._own: dict[str, torch.Tensor] = {}
        """Weights that the adapter gives to modules which are not adapted: trained biases."""
        self._kept = kept_in_float32(model, dtype)

    def run(
        self, adapter: Path, config: PeftConfig, staged: Path, shard_size: int | str
    ) -> dict[str, Any]:
        model = self._model
        rows = rows_of(adapter, model)
        own = int(model.get_input_embeddings().num_embeddings)
        if rows not in (None, own):
            model.resize_token_embeddings(rows, mean_resizing=False)
        shapes = {name: tuple(weight.shape) for name, weight in model.state_dict().items()}
        empty(model)
        wrapped = adapted(model, adapter, config)
        self._units = dict(units(wrapped))
        count = len(self._units)
        inside = tuple(f"{name}." for name in self._units)
        for name, weight in wrapped.get_base_model().named_parameters():
            if not name.startswith(inside) and not is_missing(weight):
                self._own[name] = weight.detach()
        untied = self._untied()
        skipped = {name for name in self._tied if name not in untied}
        planned = {
            name: (shape, self._format(name))
            for name, shape in shapes.items()
            if name not in skipped
        }
        # as the base's own files name them: what reads those reads these
        renamed = {self._names.get(name, name): name for name in planned}
        written = write_shards(
            staged,
            {stored: planned[name] for stored, name in renamed.items()},
            lambda stored: self._tensor(renamed[stored]),
            shard_size,
        )
        dtype = commonest((kind, torch.Size(shape).numel()) for shape, kind in planned.values())
        write_config(model.config, dtype, bool(untied), staged)
        return {
            "way": "streamed", "reason": None, "dtype": dtype, "modules": count,
            "tensors": len(planned), "bytes": written.bytes, "files": written.files,
            "untied": bool(untied), "rows": rows or own,
        }  # fmt: skip

    def _untied(self) -> set[str]:
        """Tied weights that differ from what they are tied to once the adapter is in."""
        found = set()
        for name, other in self._tied.items():
            if self._unit_of(name) is None and self._unit_of(other) is None:
                continue
            one, two = self._tensor(name), self._tensor(other)
            if torch.equal(one, two):
                self._ready[other] = two
            else:
                found.add(name)
                self._ready |= {name: one, other: two}
        return found

    def _unit_of(self, name: str) -> str | None:
        parts = name.split(".")
        steps = (".".join(parts[:end]) for end in range(len(parts), 0, -1))
        return next((step for step in steps if step in self._units), None)

    def _tensor(self, name: str) -> torch.Tensor:
        """A weight as it will be written."""
        if name in self._ready:
            return self._ready.pop(name)
        unit = self._unit_of(name)
        if unit is None:
            found = self._own.get(name)
            return self._rounded(name, self._read(name) if found is None else found)
        self._say(unit)
        module = merge_unit(self._model, unit, self._units.pop(unit), self._read)
        for key, weight in module.state_dict().items():
            full = f"{unit}.{key}"
            value = self._read(full) if is_missing(weight) else weight.detach()
            self._ready[full] = self._rounded(full, value)
        module.to("meta")  # its weights are in `_ready`, and nowhere else from now on
        return_memory()
        return self._ready.pop(name)

    def _read(self, name: str) -> torch.Tensor:
        """The base's weight in the format of its file."""
        return self._files.get(self._stored(name))

    def _stored(self, name: str) -> str:
        return self._names.get(name) or self._names[self._tied[name]]

    def _format(self, name: str) -> torch.dtype:
        own = self._files.stored[self._stored(name)].dtype
        if self._dtype is None or own not in FLOATS:
            return own
        return torch.float32 if self._kept(name) else self._dtype

    def _rounded(self, name: str, value: torch.Tensor) -> torch.Tensor:
        return rounded(name, value, self._format(name))
