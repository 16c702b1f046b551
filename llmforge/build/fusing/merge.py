"""An adapter merged into its base, on the CPU.

In: the base's folder (safetensors in full precision) and the adapter's. Out: a folder that any
engine reads: safetensors with an index, config, generation config, tokenizer and chat template;
written whole or not at all.

The base's own format is kept or another taken; the sum is computed in float32 and rounded once.
Weights stream: a tensor is read, changed and written, so that memory holds about one shard and the
largest module. Where the file's tensors are not the model's one by one (experts that transformers
stacks), or PEFT must take the adapter's start out of the base (raw PiSSA), the model is loaded: one
copy in its own format, the largest module in float32, and a shard.

This module does not find bases, does not prove what it made (`parity.py`) and does not upload.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from peft import PeftConfig
from transformers import AutoConfig

from llmforge.build.fusing.deltas import (
    MERGES,
    WEIGHTS,
    NotFusable,
    has_plain_start,
    hollow_model,
    kind_of,
)
from llmforge.build.fusing.files import WeightFiles, copy_companions
from llmforge.build.fusing.stream import Stream, one_by_one
from llmforge.build.fusing.whole import merge_whole
from llmforge.build.load import flush_tree, swap
from llmforge.build.model import dtype_of

Say = Callable[[str], None]


class QuantizedBase(NotFusable):
    """The base's weights are rounded: what was rounded away would be lost for good."""


@dataclass(frozen=True)
class Merged:
    """What was merged, and how."""

    kind: str
    """Of the adapter: `lora`, `ia3`, ..."""
    way: Literal["streamed", "whole"]
    """Tensor by tensor, or by the loaded model."""
    reason: str | None
    """Why the model had to be loaded."""
    dtype: str
    """Format of most of the weights."""
    modules: int
    """Merged ones."""
    tensors: int
    bytes: int
    """Of all weights."""
    files: tuple[str, ...]
    untied: bool
    """The adapter changed one of two tied weights, so the fused model has both."""
    rows: int
    """Of the embedding."""
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "files": list(self.files)}


def fuse(
    base: Path,
    adapter: Path,
    target: Path,
    dtype: str | None = None,
    shard_size: int | str = "5GB",
    say: Say = lambda _: None,
) -> Merged:
    """Merge the adapter in a folder into the base in a folder.

    Args:
        base: safetensors in full precision, with config.json and tokenizer.
        adapter: `adapter_config.json` and `adapter_model.safetensors`; its tokenizer and generation
            config, where it has them, are those of the result.
        target: replaced in one rename when everything is written.
        dtype: `float32`, `bfloat16` or `float16`; None keeps each tensor's own.
        shard_size: bytes, or a text such as `5GB`.
        say: is told what is being done.

    Raises:
        QuantizedBase: the base's weights are packed in fewer bits.
        NotFinite: a merged weight does not fit the format.
        NotFusable: the adapter is no change of weights, or not one of this base.
        FileNotFoundError: a file is missing.
    """
    started = time.monotonic()
    config = _checked(base, adapter)
    target = target.absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    staged.mkdir()
    try:
        facts = _merge(base, adapter, config, staged, dtype, shard_size, say)
        copy_companions(adapter, base, staged)
        flush_tree(staged)
        swap(staged, target)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return Merged(kind=kind_of(config).lower(), seconds=time.monotonic() - started, **facts)


def _checked(base: Path, adapter: Path) -> PeftConfig:
    """The adapter's config; raises what can be told without any weight."""
    if not (adapter / WEIGHTS).is_file():
        raise FileNotFoundError(f"{adapter} holds no {WEIGHTS}")
    stored = json.loads((base / "config.json").read_text(encoding="utf-8"))
    if is_quantized(stored):
        raise QuantizedBase(
            f"the weights in {base} are quantized: merging into them would round most of the "
            "adapter away"
        )
    config = PeftConfig.from_pretrained(str(adapter))
    kind = kind_of(config)
    if config.is_prompt_learning or kind in ("ADAPTION_PROMPT", "XLORA", "POLY"):
        raise NotFusable(
            f"the adapter in {adapter} is {kind.lower().replace('_', ' ')}: it reads along with "
            "the text and is no change of weights"
        )
    if getattr(config, "layer_replication", None):
        raise NotFusable(
            f"the adapter in {adapter} repeats layers of its base (layer_replication), which share "
            "their weights, so each copy's change has no place of its own"
        )
    if getattr(config, "alora_invocation_tokens", None):
        raise NotFusable(
            f"the adapter in {adapter} acts from its invocation tokens on only (activated LoRA)"
        )
    return config


def is_quantized(config: dict[str, Any]) -> bool:
    """Does a config.json say that the weights beside it are packed?"""
    inner = [value for value in config.values() if isinstance(value, dict)]
    return any(part.get("quantization_config") for part in [config, *inner])


def _merge(
    base: Path,
    adapter: Path,
    config: PeftConfig,
    staged: Path,
    dtype: str | None,
    shard_size: int | str,
    say: Say,
) -> dict[str, Any]:
    files = WeightFiles(base)
    shape = hollow_model(AutoConfig.from_pretrained(str(base), trust_remote_code=False))
    names, reason = one_by_one(shape, files)
    if kind_of(config) not in MERGES:
        reason = f"{kind_of(config).lower()} is merged by PEFT as a whole"
    elif not has_plain_start(config):
        reason = "PEFT takes the start of the adapter out of the base"
    wanted = dtype_of(dtype) if dtype else None
    if reason is None:
        say("merging tensor by tensor")
        return Stream(shape, files, names, wanted, say).run(adapter, config, staged, shard_size)
    del shape
    say(f"merging in memory: {reason}")
    return merge_whole(base, adapter, config, staged, wanted, shard_size) | {"reason": reason}
