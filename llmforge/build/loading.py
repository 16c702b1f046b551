"""A model as it was trained: base found, adapter laid over it, packed or merged on request.

In: a place (folder, and run, plan and step where they are known), formats, more adapters. Out:
model and tokenizer, in evaluation mode. With the plan at hand an adapter's base is built as it was
for training, experiment and all, so that logits are those of the model that was trained; weights
are the trained ones, whatever a hook did. Full weights bring with them what hooks changed.

Writing models is `load.py`'s; what a reference means is decided in `refs/models.py`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peft import PeftConfig, PeftModel
from transformers import BitsAndBytesConfig

from llmforge import registry
from llmforge.build.adapter import real_positions_only
from llmforge.build.adapters_beside import with_adapter
from llmforge.build.experiment import activated
from llmforge.build.formats import hold_adapter
from llmforge.build.load import (
    ADAPTER_WEIGHTS,
    BASE,
    is_adapter,
    load_weights,
)
from llmforge.build.model import dtype_of, set_stops
from llmforge.build.places import DEFAULT, NotLoadable, Place, base_name
from llmforge.build.quantized import own_device
from llmforge.build.tokenizer import make_tokenizer, open_tokenizer
from llmforge.plan import Plan

_MERGED = {"LORA", "IA3", "ADALORA", "VERA"}
"""Kinds of adapters that are a change of weights."""


def load_place(
    place: Place,
    dtype: str | None = None,
    quantization: Mapping[str, Any] | None = None,
    merge: bool = False,
    adapters: Mapping[str, Place] | None = None,
    device: str | None = None,
) -> tuple[Any, Any]:
    """Model and tokenizer.

    Args:
        place: where the model lies.
        dtype: of weights that are not packed; None keeps what they were trained or saved in.
        quantization: settings of a `quantization` option; None is as trained.
        merge: give the base with the adapter's change in its weights, without an adapter.
        adapters: more adapters by name; `model.set_adapter(name)` switches.
        device: as torch names it, `auto` for a GPU where there is one; None is the CPU, or for
            packed weights the device of this process.

    Raises:
        NotLoadable: the parts do not fit each other.
        FileNotFoundError: the base is gone, or has no safetensors.
    """
    if merge and adapters:
        raise NotLoadable("what is merged cannot be switched: load either merged or with adapters")
    target = own_device() if device == "auto" else device
    if merge and quantization is None and _is_packed(place.plan):
        quantization = {"kind": "none"}  # in packed weights there is no room for the change
    model, tokenizer = _opened(place, dtype, quantization, target, merge)
    if merge:
        model = _merged(model, place)
    for name, other in (adapters or {}).items():
        model = with_adapter(model, tokenizer, name, other, place)
    set_stops(model, tokenizer)
    if target is not None and not is_packed(model):
        model = model.to(target)
    return model.eval(), tokenizer


def is_packed(model: Any) -> bool:
    """Is the model, or the base below its adapters, quantized?"""
    return getattr(model.config, "quantization_config", None) is not None


def _opened(
    place: Place,
    dtype: str | None,
    quantization: Mapping[str, Any] | None,
    device: str | None,
    merge: bool,
) -> tuple[Any, Any]:
    if place.folder is None:
        return _untrained(place, dtype, quantization, device)
    if not is_adapter(place.folder):
        if merge:
            raise NotLoadable(f"{place.label} has no adapter to merge: it holds full weights")
        tokenizer = open_tokenizer(place.folder)
        return _weights(place.folder, dtype, quantization, device, place.plan), tokenizer
    if not (place.folder / ADAPTER_WEIGHTS).is_file():
        raise FileNotFoundError(
            f"{place.folder} holds an adapter's config, but no {ADAPTER_WEIGHTS}"
        )
    plan = place.plan
    own = place.folder / BASE
    if plan is None or own.is_dir() or dtype is not None or quantization is not None:
        tokenizer = open_tokenizer(place.folder)
        base = _named_base(place, tokenizer, dtype, quantization, device)
        return _adapted(base, place.folder, plan), tokenizer
    return _as_trained(plan, place)


def _as_trained(plan: Plan, place: Place) -> tuple[Any, Any]:
    """An adapter over its base, both built as for training, and the trained weights in it."""
    folder = place.folder
    assert folder is not None  # noqa: S101 - an adapter has a folder
    with activated(plan) as hooks:
        hooks.call("at_beginning")
        tokenizer = hooks.build("tokenizer", lambda: open_tokenizer(folder))
        model = hooks.build("model", lambda: _base_by_plan(plan, place, tokenizer))
        model = hooks.change("lora_apply", model, lambda base: _adapted(base, folder, plan))
        if plan.spec.hooks.kind != "none":
            model.load_adapter(str(folder), DEFAULT)  # a hook may have set other values
            model.requires_grad_(False)
    return model, tokenizer


def _base_by_plan(plan: Plan, place: Place, tokenizer: Any) -> Any:
    """The plan's base; one that was drawn at random is read, where the run has written it."""
    if plan.spec.model.kind == "scratch" and place.run is not None:
        written = place.run.model / BASE
        if written.is_dir():
            return load_weights(written, None)
    build = registry.component("model", plan.spec.model.kind).load_builder()
    return build(plan, tokenizer)


def _untrained(
    place: Place, dtype: str | None, quantization: Mapping[str, Any] | None, device: str | None
) -> tuple[Any, Any]:
    plan = place.plan
    assert plan is not None  # noqa: S101 - a place without a folder is a plan's
    tokenizer = make_tokenizer(plan, ())
    if dtype is None and quantization is None:
        with activated(plan) as hooks:
            hooks.call("at_beginning")
            tokenizer = hooks.build("tokenizer", lambda: tokenizer)
            return hooks.build("model", lambda: _base_by_plan(plan, place, tokenizer)), tokenizer
    return _named_base(place, tokenizer, dtype, quantization, device), tokenizer


def _named_base(
    place: Place,
    tokenizer: Any,
    dtype: str | None,
    quantization: Mapping[str, Any] | None,
    device: str | None,
) -> Any:
    """The base by its folder or hub name, in another format than it was trained in."""
    own = place.folder / BASE if place.folder else None
    if own is not None and own.is_dir():
        return _weights(own, dtype, quantization, device, place.plan)
    plan = place.plan
    if plan is not None and plan.spec.model.kind == "scratch":
        written = place.run.model / BASE if place.run is not None else None
        if written is not None and written.is_dir():
            return _weights(written, dtype, quantization, device, plan)
        if quantization is not None and quantization["kind"] != "none":
            raise NotLoadable(
                f"the base of {place.label} has random weights that the run has not written yet, "
                "so nothing can be packed while it is loaded",
                ("it is written with the final model",),
            )
        base = _base_by_plan(plan, place, tokenizer)
        return base if dtype is None else base.to(dtype_of(dtype))
    source, revision = base_name(place)
    path = Path(source)
    if not path.is_dir() and (path.is_absolute() or not source):
        raise FileNotFoundError(
            f"the adapter in {place.folder} needs its base model {source or '(not named)'}, "
            "which is gone"
        )
    return _weights(path, dtype, quantization, device, plan, revision)


def _weights(
    source: Path,
    dtype: str | None,
    quantization: Mapping[str, Any] | None,
    device: str | None,
    plan: Plan | None,
    revision: str | None = None,
) -> Any:
    keywords: dict[str, Any] = {}
    if device is not None:
        keywords["device_map"] = {"": device}
    if quantization is not None and quantization["kind"] == "bitsandbytes":
        if (source / "config.json").is_file():
            stored = json.loads((source / "config.json").read_text(encoding="utf-8"))
            if "quantization_config" in stored:
                raise NotLoadable(f"the weights in {source} are quantized already")
        keywords["quantization_config"] = _packing(quantization, _compute(plan, dtype))
        keywords.setdefault("device_map", {"": own_device()})
    return load_weights(source, dtype, revision, **keywords)


def _packing(values: Mapping[str, Any], compute: str) -> BitsAndBytesConfig:
    """An option of the group `quantization` as transformers takes it."""
    if values["bits"] == 4:
        return BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=values["quant_type"],
            bnb_4bit_use_double_quant=values["double_quant"],
            bnb_4bit_compute_dtype=compute,
        )
    return BitsAndBytesConfig(
        load_in_8bit=True,
        llm_int8_threshold=values["int8_threshold"],
        llm_int8_has_fp16_weight=values["int8_fp16_weight"],
    )


def _compute(plan: Plan | None, dtype: str | None) -> str:
    """Format of the arithmetic on packed weights."""
    return dtype or (str(plan.spec.precision.compute) if plan is not None else "bfloat16")


def _is_packed(plan: Plan | None) -> bool:
    return plan is not None and plan.spec.quantization.kind == "bitsandbytes"


def _adapted(base: Any, folder: Path, plan: Plan | None) -> Any:
    """The base with the trained adapter of a folder, in the formats of the plan."""
    config = PeftConfig.from_pretrained(str(folder))
    # PEFT takes no prompt back up for training; here nothing is trained anyway
    model = PeftModel.from_pretrained(
        base, str(folder), config=config, is_trainable=not config.is_prompt_learning
    )
    if plan is not None:
        # formats first, then values: a module that was trained whole in float32 would be rounded to
        # the format of its neighbours
        hold_adapter(plan, model)
        model.load_adapter(str(folder), DEFAULT)
    model.requires_grad_(False)
    if config.peft_type == "PROMPT_TUNING":
        real_positions_only(model)
    return model


def _merged(model: Any, place: Place) -> Any:
    kind = str(model.peft_config[DEFAULT].peft_type)
    kind = kind.rpartition(".")[2]
    if kind not in _MERGED:
        raise NotLoadable(
            f"the adapter of {place.label} is {kind.lower().replace('_', ' ')}: it reads along "
            "with the text and is no change of weights, so it cannot be merged"
        )
    if is_packed(model):
        raise NotLoadable(
            f"the base of {place.label} is quantized: merging would round most of the adapter away",
            ("load it with the adapter beside it, or merge into the weights it was packed from",),
            'quantization="none"',
        )
    return model.merge_and_unload()
