"""The model: random weights of a given shape, or a checkpoint.

In: a plan and the tokenizer. Out: a causal language model on the CPU (or, quantized or placed by
`model.device_map`, on its devices), its special token ids those of the tokenizer. Weights come from
safetensors only.

This module does not wrap adapters (`adapter.py`) and does not move models to devices otherwise: the
Trainer does. Quantization stands in `quantized.py`, formats in `formats.py`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, set_seed

from llmforge.build.experiment import active
from llmforge.build.formats import hold_parts
from llmforge.build.placing import check_placing, placing_keywords
from llmforge.build.quantized import is_packed_late, keep_layout, load_keywords, pack
from llmforge.build.templates import stop_ids
from llmforge.plan import Plan

_OF_THE_CONFIG = ("revision", "trust_remote_code", "local_files_only")
SAFE_WEIGHTS = ("model.safetensors", "model.safetensors.index.json")


def from_scratch(plan: Plan, tokenizer: Any) -> Any:
    """Builder of `model.kind=scratch`: weights drawn with the run's seed, in `precision.weights`.

    Raises:
        ValueError: fewer embedding rows than tokens.
    """
    lowered = plan.lowered["model"]
    config = AutoConfig.for_model(**lowered["config"])
    config.bos_token_id = tokenizer.bos_token_id
    config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    check_vocabulary(int(config.vocab_size), tokenizer)
    set_seed(plan.spec.seed)
    # drawn in float32 whatever the final format, so that formats differ by rounding only
    model = AutoModelForCausalLM.from_config(
        config, dtype=torch.float32, attn_implementation=lowered["attn_implementation"]
    )
    model.to(dtype_of(lowered["dtype"]))
    return _finished(plan, model, tokenizer)


def from_checkpoint(plan: Plan, tokenizer: Any) -> Any:
    """Builder of `model.kind=folder` and `hub`: config.json and safetensors.

    Raises:
        FileNotFoundError: there are no safetensors, or they cannot be had; says what helps.
        ValueError: fewer embedding rows than tokens; trained weights that have no room on a device;
            a quantization that is not the checkpoint's.
    """
    placed = ("device_map", "offload_folder")
    lowered = {
        key: value
        for key, value in plan.lowered["model"].items()
        if value is not None and key not in placed
    }
    source = lowered.pop("pretrained_model_name_or_path")
    if Path(source).is_dir():
        check_safe_weights(Path(source))
        lowered["local_files_only"] = True
    lowered["dtype"] = dtype_of(lowered["dtype"])
    # new weights (a head that the checkpoint lacks) are drawn with the run's seed as well
    set_seed(plan.spec.seed)
    try:
        stored = _stored_quantization(source, lowered)
        # where the user places parts, the device of this process does not decide
        lowered |= _quantization_at_load(plan, stored) | placing_keywords(plan)
        model = AutoModelForCausalLM.from_pretrained(source, **lowered)
    except OSError as error:
        if Path(source).is_dir():
            raise
        revision = str(lowered.get("revision", "main"))
        raise FileNotFoundError(no_hub_weights(source, revision, error)) from error
    check_placing(plan, model)
    return _finished(plan, model, tokenizer)


def _finished(plan: Plan, model: Any, tokenizer: Any) -> Any:
    """What all models share: late packing, formats of their parts, where generation stops."""
    check_vocabulary(model.get_input_embeddings().num_embeddings, tokenizer)
    hooks = active(plan)
    if plan.spec.quantization.kind != "none":
        model = hooks.change("quantized_base", model, lambda found: _packed(plan, found))
    keep_layout(model)
    model = hooks.change("stabilize_training", model, lambda found: hold_parts(plan, found))
    hooks.experiment.model = None  # it is not built yet
    set_stops(model, tokenizer)
    return model


def _packed(plan: Plan, model: Any) -> Any:
    return pack(plan, model) if is_packed_late(plan) else model


def _quantization_at_load(plan: Plan, stored: dict[str, Any] | None) -> dict[str, Any]:
    """Keywords of quantized loading; the experiment may have another configuration."""
    found: dict[str, Any] = {}

    def make() -> Any:
        found.update(load_keywords(plan, stored))
        return found.get("quantization_config")

    config = active(plan).build("quantization_config", make)
    return found if config is None else {**found, "quantization_config": config}


def _stored_quantization(source: str, options: dict[str, Any]) -> dict[str, Any] | None:
    """`quantization_config` of a checkpoint's config.json."""
    asked = {key: options[key] for key in _OF_THE_CONFIG if key in options}
    config = AutoConfig.from_pretrained(source, **asked)
    found = getattr(config, "quantization_config", None)
    if found is None:
        found = getattr(config.get_text_config(), "quantization_config", None)
    return found if found is None or isinstance(found, dict) else dict(found.to_dict())


def no_hub_weights(repository: str, revision: str, error: Exception) -> str:
    """Why a hub model cannot be loaded, and what helps: a message of one paragraph."""
    said = " ".join(str(error).split())
    if "safetensors" in said:
        ways = (
            "llmforge reads safetensors only, and this revision has none; the hub often holds them "
            f"in a pull request of its converter (see the discussions of {repository}), which is "
            "chosen with model.revision=refs/pr/<number>"
        )
    else:
        ways = (
            f"`hf download {repository} --revision {revision}` fetches them where there is a "
            "network, `hf auth login` opens a gated repository, and "
            "model=folder model.path=<folder> reads a copy"
        )
    return f"the weights of {repository} at {revision} cannot be had; {ways}. The hub said: {said}"


def check_safe_weights(folder: Path) -> None:
    """Raises `FileNotFoundError` when a model folder holds no safetensors."""
    if any((folder / name).is_file() for name in SAFE_WEIGHTS):
        return
    pickled = sorted(p.name for p in folder.glob("*.bin")) + sorted(
        p.name for p in folder.glob("*.pt*")
    )
    if not pickled:
        raise FileNotFoundError(f"{folder} holds no model.safetensors")
    raise FileNotFoundError(
        f"{folder} holds its weights as {pickled[0]}, a pickle, which may run code when it is "
        "read; llmforge reads safetensors only. If you trust the file, convert it once: "
        'python -c "from transformers import AutoModelForCausalLM as M; '
        f"M.from_pretrained({str(folder)!r}, use_safetensors=False)"
        f'.save_pretrained({str(folder) + "-safetensors"!r})"'
    )


def check_vocabulary(rows: int, tokenizer: Any) -> None:
    """Raises `ValueError` when some token would have no embedding row."""
    if len(tokenizer) > rows:
        raise ValueError(
            f"the tokenizer has {len(tokenizer):,} tokens and the model {rows:,} embedding rows, "
            f"so tokens from {rows} on have none; use the tokenizer that belongs to the model "
            "(tokenizer.source=model)"
        )


def set_stops(model: Any, tokenizer: Any) -> None:
    """Generation stops where training taught the model to: end of turn, end token."""
    config = model.generation_config
    known = config.eos_token_id
    known = [known] if isinstance(known, int) else list(known or [])
    found = stop_ids(tokenizer)
    stops = [*found, *(id_ for id_ in known if id_ not in found and id_ < len(tokenizer))]
    config.eos_token_id = stops or None
    config.pad_token_id = tokenizer.pad_token_id
    config.bos_token_id = tokenizer.bos_token_id
    # no longer what the library made up from config.json, so it must be saved and read as it is
    config._from_model_config = False  # noqa: SLF001


def dtype_of(name: str) -> torch.dtype:
    """`"bfloat16"` as `torch.bfloat16`."""
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype)  # noqa: S101 - the schema knows three names
    return found
