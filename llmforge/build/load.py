"""The final model on disk: written whole or not at all, and read back.

In: what was trained. Out: a folder that any engine reads: safetensors, tokenizer with its chat
template, generation_config that stops at the end of turn. Under LoRA it holds the adapter alone,
which names its base; a base from scratch has no other home and lies in the folder's `base/`.

This module does not merge adapters and does not upload.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from llmforge.build.adapter_files import base_weights, save_adapter
from llmforge.build.model import check_safe_weights, dtype_of, set_stops
from llmforge.build.parts import Parts
from llmforge.build.prepared import sync
from llmforge.build.quantized import keep_layout
from llmforge.build.sharding import gathered
from llmforge.build.trainer import ForgeTrainer
from llmforge.plan import Plan

ADAPTER_CONFIG, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
BASE = "base"


def save_final(plan: Plan, source: Parts | ForgeTrainer, folder: Path) -> None:
    """Write the final model to `folder`, replacing what is there in one rename.

    Every process of a distributed run must call this with its trainer (sharded weights are gathered
    from all); the main one writes.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    staged = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        write_model(plan, source, staged, folder)
        if isinstance(source, ForgeTrainer) and not source.is_world_process_zero():
            return
        flush_tree(staged)
        swap(staged, folder)
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_model(
    plan: Plan, source: Parts | ForgeTrainer, staged: Path, final: Path
) -> dict[str, Any] | None:
    """Write the model to `staged` as it will be read from `final`; on the main process only.

    Every process of a distributed run must call this with its trainer.

    Returns:
        The gathered weights of a sharded model, else None.
    """
    state: dict[str, Any] | None = None
    if isinstance(source, ForgeTrainer):
        accelerator = source.accelerator
        if source.is_deepspeed_enabled or source.is_fsdp_enabled:
            state = gathered(source)
        model, tokenizer = accelerator.unwrap_model(source.model), source.processing_class
        if not source.is_world_process_zero():
            return None
    else:
        model, tokenizer = source.model, source.tokenizer
    _write(plan, model, tokenizer, state, staged, final.absolute())
    return state


def flush_tree(folder: Path) -> None:
    """Have everything below a folder written to the disk itself."""
    for path in sorted(folder.rglob("*")):
        sync(path)


def load(folder: str | Path, dtype: str | None = None) -> tuple[Any, Any]:
    """Model and tokenizer of a final folder, in evaluation mode, on the CPU.

    Args:
        folder: written by `save_final`; full weights, or an adapter that names its base.
        dtype: `float32`, `bfloat16` or `float16`; None keeps the format it was saved in.

    Raises:
        FileNotFoundError: no folder, no safetensors in it, or the adapter's base is gone.
    """
    from llmforge.build.loading import load_place  # both stand above this module
    from llmforge.build.places import Folder

    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no model folder {folder}")
    return load_place(Folder(folder), dtype)


def load_weights(
    source: Path, dtype: str | None, revision: str | None = None, **keywords: Any
) -> Any:
    """Weights of a folder or hub repository, from safetensors only and without its code.

    Args:
        source: folder or hub name.
        dtype: None keeps the format they were saved in.
        revision: on the hub.
        keywords: more for `from_pretrained`: `device_map`, `quantization_config`.

    Raises:
        FileNotFoundError: a folder without safetensors.
    """
    # said aloud, since the library's own default asks a person at the terminal
    options: dict[str, Any] = {"use_safetensors": True, "trust_remote_code": False, **keywords}
    options["dtype"] = dtype_of(dtype) if dtype else "auto"
    if source.is_dir():
        check_safe_weights(source)
        options["local_files_only"] = True
    elif revision is not None:
        options["revision"] = revision
    model = AutoModelForCausalLM.from_pretrained(str(source), **options)
    keep_layout(model)
    return model.eval()


def _write(
    plan: Plan,
    model: Any,
    tokenizer: Any,
    state: dict[str, Any] | None,
    staged: Path,
    final: Path,
) -> None:
    shard = plan.spec.checkpoint.max_shard_size
    if isinstance(model, PeftModel):
        config = model.peft_config["default"]
        trained = config.base_model_name_or_path, config.revision
        config.base_model_name_or_path, config.revision = _base_of(plan, final)
        try:
            save_adapter(model, staged, state)
        finally:
            # a base that is not there yet would be missed by later checkpoints
            config.base_model_name_or_path, config.revision = trained
        if plan.spec.model.kind == "scratch":
            _save_weights(
                model.get_base_model(), base_weights(model, state), staged / BASE, shard, tokenizer
            )
            tokenizer.save_pretrained(staged / BASE)
        set_stops(model, tokenizer)
        model.generation_config.save_pretrained(staged)
    else:
        _save_weights(model, state, staged, shard, tokenizer)
    tokenizer.save_pretrained(staged)


def _base_of(plan: Plan, final: Path) -> tuple[str, str | None]:
    """Where an adapter's base lies, as other engines will look for it: absolute, or on the hub."""
    if plan.spec.model.kind == "scratch":
        return str(final / BASE), None
    lowered = plan.lowered["model"]
    source = str(lowered["pretrained_model_name_or_path"])
    if Path(source).is_dir():
        return str(Path(source).resolve()), None
    return source, lowered.get("revision")


def _save_weights(
    model: PreTrainedModel, state: dict[str, Any] | None, folder: Path, shard: str, tokenizer: Any
) -> None:
    set_stops(model, tokenizer)
    config = model.config
    trained = config.use_cache, config.pad_token_id
    quantizer = getattr(model, "hf_quantizer", None)
    config.use_cache = True  # off in training only
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        # as `padding_idx` of the embedding it would freeze the end token's row in later training
        config.pad_token_id = None
    if quantizer is not None and state is not None:
        # it would write the model's own state, adapter and all, in the place of the one given
        model.hf_quantizer = None
    try:
        model.save_pretrained(folder, state_dict=state, max_shard_size=shard)
    finally:
        config.use_cache, config.pad_token_id = trained
        if quantizer is not None:
            model.hf_quantizer = quantizer


def swap(staged: Path, folder: Path) -> None:
    """Put `staged` in the place of `folder`; what stood there goes only when the new one stands."""
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    staged.rename(folder)
    sync(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def is_adapter(folder: str | Path) -> bool:
    """Does the folder hold an adapter and not full weights?"""
    path = Path(folder) / ADAPTER_CONFIG
    return path.is_file() and "peft_type" in json.loads(path.read_text(encoding="utf-8"))
