"""What an adapter changes: module by module, computed in float32 by PEFT's own layers.

In: a model (or the hollow shape of one) and an adapter's folder. Out: the adapted modules, and the
plain weights that each becomes when it is merged. Every formula (LoRA and its kin, DoRA, AdaLoRA,
IA3, VeRA, trained tokens, experts) is PEFT's `merge`.

A hollow model has every weight's shape, and no memory: each is one zero that is repeated. Unlike
the meta device it lets PEFT put the adapter's own weights where they can be computed with.

This module reads no base weights by itself and writes nothing (`merge.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, PeftModelForCausalLM
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import AuxiliaryTrainingWrapper, ModulesToSaveWrapper
from safetensors import safe_open
from torch import nn
from transformers import AutoModelForCausalLM

ADAPTER = "default"
WEIGHTS = "adapter_model.safetensors"
Read = Callable[[str], torch.Tensor]

MERGES = frozenset({"LORA", "ADALORA", "IA3", "VERA", "TRAINABLE_TOKENS"})
"""Kinds of which each module is merged by itself, and which were seen to equal PEFT's own whole
merge; others go by that."""

_ZERO = torch.zeros(())
_WRAPPING = {"base_layer", "token_adapter"}
_AGAIN = {"modules_to_save", "original_module"}


class NotFusable(ValueError):
    """An adapter cannot be merged into this base."""


def hollow_model(config: Any) -> Any:
    """The causal language model of a config, of hollow float32 weights."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=torch.float32, trust_remote_code=False
        )
    return model.eval()


def empty(model: nn.Module) -> None:
    """Make every weight on the meta device hollow; tied ones stay tied."""
    made: dict[int, nn.Parameter] = {}
    for module in model.modules():
        for name, weight in module.named_parameters(recurse=False):
            if weight.is_meta:
                hollow = nn.Parameter(_ZERO.expand(weight.shape), requires_grad=False)
                setattr(module, name, made.setdefault(id(weight), hollow))
        for name, kept in module.named_buffers(recurse=False):
            if kept.is_meta and name not in module._non_persistent_buffers_set:  # noqa: SLF001 - no public way to ask
                setattr(module, name, torch.zeros((), dtype=kept.dtype).expand(kept.shape))


def is_missing(tensor: torch.Tensor) -> bool:
    """Is it hollow, or nowhere?"""
    if tensor.is_meta or tensor.untyped_storage().data_ptr() == _ZERO.data_ptr():
        return True
    # a weight that PEFT has copied is still one zero, repeated
    return bool(tensor.untyped_storage().nbytes() < tensor.numel() * tensor.element_size())


def kind_of(config: PeftConfig) -> str:
    """`LORA`, `IA3`, ..."""
    return str(config.peft_type).rpartition(".")[2]


def has_plain_start(config: PeftConfig) -> bool:
    """Does the adapter stand over the unchanged base? PEFT takes the start of others out of it."""
    start = getattr(config, "init_lora_weights", True)
    return start in (True, False, None, "gaussian", "orthogonal", "eva")


def rows_of(adapter: Path, model: Any) -> int | None:
    """Rows of the embedding that the adapter's file holds; None where it holds none."""
    table = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is table)
    known = {f"base_model.model.{name}{part}.weight" for part in ("", ".base_layer")}
    with safe_open(str(adapter / WEIGHTS), framework="pt") as opened:
        for key in known.intersection(opened.keys()):
            return int(opened.get_slice(key).get_shape()[0])
    return None


def adapted(
    model: Any, adapter: Path, config: PeftConfig, hollow: bool = True
) -> PeftModelForCausalLM:
    """The model with the adapter of a folder in it, on the CPU.

    Args:
        model: changed in place.
        hollow: its weights are; then the adapter's start cannot be computed from them.

    Raises:
        NotFusable: the adapter is not one of this model's: a module is missing, or of another
            shape, or its file holds too much or too little.
    """
    config.inference_mode = True
    try:
        # low: the adapter's weights are first made nowhere, as drawing them would take the time
        wrapped = PeftModelForCausalLM(model, config, ADAPTER, low_cpu_mem_usage=hollow)
        result = wrapped.load_adapter(
            str(adapter), ADAPTER, torch_device="cpu", low_cpu_mem_usage=hollow
        )
    except (ValueError, RuntimeError, KeyError) as error:
        said = " ".join(str(error).split())
        raise NotFusable(f"the adapter in {adapter} does not fit the base: {said}") from error
    # PEFT writes a table that was resized and trained whole under these names once more
    unknown = sorted(key for key in result.unexpected_keys if not _AGAIN & set(key.split(".")))
    if unknown:
        raise NotFusable(
            f"the adapter in {adapter} holds {len(unknown)} weights that the base has no module "
            f"for, such as {unknown[0]}"
        )
    _share_tied(wrapped.get_base_model())
    for name, unit in units(wrapped):
        for key, weight in unit.named_parameters():
            own = not _WRAPPING.intersection(key.split(".")) and "original_module" not in key
            if own and is_missing(weight):
                raise NotFusable(f"the adapter in {adapter} has no weights for {name}: no {key}")
    wrapped.requires_grad_(False)
    return wrapped


def units(wrapped: PeftModelForCausalLM) -> Iterator[tuple[str, Any]]:
    """Every adapted module, by its name in the base model; those inside others are left out."""
    outer = ""
    for name, module in list(wrapped.get_base_model().named_modules()):
        if outer and name.startswith(outer):
            continue
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            outer = f"{name}."
            yield name, module


def merge_unit(model: Any, name: str, unit: Any, read: Read) -> nn.Module:
    """Merge an adapted module in float32 and put the plain module in its place.

    Args:
        model: the base model that the unit stands in.
        read: the base's weight of a name; asked for hollow ones only.

    Returns:
        The plain module, in float32 where it was merged.
    """
    _fill(name, unit, read)
    for part in unit.modules():
        for key, weight in part.named_parameters(recurse=False):
            if weight.is_floating_point() and weight.dtype != torch.float32:
                setattr(part, key, nn.Parameter(weight.detach().float(), requires_grad=False))
    with torch.no_grad():
        if hasattr(unit, "unload_and_optionally_merge_module"):
            plain = unit.unload_and_optionally_merge_module(
                merge=True, safe_merge=False, adapter_names=None
            )
        else:
            unit.merge(safe_merge=False)
            plain = unit.get_base_layer()
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, plain)
    assert isinstance(plain, nn.Module)  # noqa: S101 - a layer's base is one
    return plain


def _fill(name: str, unit: nn.Module, read: Read) -> None:
    """Give a unit the base's weights that it needs, each a copy of its own."""
    for path, part in unit.named_modules():
        if "original_module" in path.split("."):
            continue  # replaced as a whole: its old weights are not looked at
        for key, weight in list(part.named_parameters(recurse=False)):
            if is_missing(weight):
                inside = [step for step in path.split(".") if step and step not in _WRAPPING]
                found = read(".".join([name, *inside, key]))
                if found.shape != weight.shape:
                    raise NotFusable(
                        f"{name}.{key} is {tuple(found.shape)} in the base and "
                        f"{tuple(weight.shape)} where the adapter was trained"
                    )
                setattr(part, key, nn.Parameter(found.float(), requires_grad=False))


def _share_tied(model: Any) -> None:
    """A module that is trained whole and tied to another is in the file once: both have it."""
    for one, other in dict(model.all_tied_weights_keys).items():
        pair = [_saved(model, name) for name in (one, other)]
        if pair[0] is None or pair[1] is None:
            continue
        (a, key_a), (b, key_b) = pair
        if is_missing(getattr(a, key_a)):
            setattr(a, key_a, getattr(b, key_b))
        elif is_missing(getattr(b, key_b)):
            setattr(b, key_b, getattr(a, key_a))


def _saved(model: Any, name: str) -> Any:
    path, _, key = name.rpartition(".")
    try:
        wrapper = model.get_submodule(path)
    except AttributeError:
        return None
    if not isinstance(wrapper, ModulesToSaveWrapper):
        return None
    return wrapper.modules_to_save[ADAPTER], key
