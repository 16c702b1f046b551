"""A DeepSpeed JSON of the user's own, completed to an ordinary section.

In: a draft with `deepspeed: {kind: file, path: ds.json}`. Out: the same with a section of kind
`zero`: fields from the file with its lines as their origins; what the plan owns under `claims`, to
be compared with the plan (`rules/deepspeed_file.py`) and used for nothing else; everything else
under `more`, passed on. `"auto"` leaves a value to the plan. What the file has no key for stands in
the shipped option of its stage.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from llmforge.compiler.deepspeed_text import KEY, DeepSpeedFile, below, fault, read_deepspeed
from llmforge.compiler.preset_section import Options, fill_section, is_file
from llmforge.compiler.preset_text import Preset
from llmforge.compose import Draft
from llmforge.diagnostics import Diagnostic
from llmforge.origins import Origin

ZERO = "zero_optimization"

FIELDS: dict[str, str] = {
    "overlap_comm": "overlap_communication",
    "contiguous_gradients": "contiguous_gradients",
    "reduce_scatter": "reduce_scatter",
    "reduce_bucket_size": "bucket_size",
    "allgather_bucket_size": "gather_bucket_size",
    "allgather_partitions": "gather_partitions",
    "round_robin_gradients": "round_robin_gradients",
    "sub_group_size": "sub_group_size",
    "stage3_prefetch_bucket_size": "prefetch_bucket_size",
    "stage3_param_persistence_threshold": "persistence_threshold",
    "stage3_max_live_parameters": "max_live_parameters",
    "stage3_max_reuse_distance": "max_reuse_distance",
}
"""Key of `zero_optimization` -> field of the section."""

OFFLOADS = {"offload_optimizer": "offload_optimizer", "offload_param": "offload_parameters"}
"""Mappings of `zero_optimization` -> the field that says whether."""

OLD_OFFLOADS = {"cpu_offload": "offload_optimizer", "cpu_offload_params": "offload_parameters"}
"""Switches of DeepSpeed's first versions -> the same."""

OWNED = frozenset(
    {
        *("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps"),
        *("gradient_clipping", "optimizer", "scheduler", "amp", "torch_autocast", "elasticity"),
    }
)
"""Keys that the plan owns whole."""

SWITCHES = ("bf16", "fp16")
"""Mappings whose `enabled` the plan owns; the rest (scales) is passed on."""

GATHER = "stage3_gather_16bit_weights_on_model_save"


def fill_deepspeed(draft: Draft, options: Options) -> Draft:
    """The draft with a whole section `deepspeed`; itself when it is no file."""
    if not is_file(draft, "deepspeed"):
        return draft
    read = _read(draft)
    if isinstance(read, DeepSpeedFile):
        said, faults = _said(read)
        if not faults:
            return _filled(draft, read, said, options)
    else:
        said, faults = {}, [read] if read else []
    draft = fill_section(draft, "deepspeed", "stage2", {}, None, options)
    return replace(draft, diagnostics=(*draft.diagnostics, *faults))


def _read(draft: Draft) -> DeepSpeedFile | Diagnostic | None:
    path = draft.values["deepspeed"].get("path")
    if isinstance(path, str) and path != "???":
        return read_deepspeed(path)
    told = any(one.key == KEY for one in draft.diagnostics)
    return None if told else Diagnostic("LF105", f"`{KEY}` has no value", key=KEY)


def _said(file: DeepSpeedFile) -> tuple[dict[str, tuple[Any, str]], list[Diagnostic]]:
    """Field of the section -> value and the file's key for it; and what is wrong."""
    zero = file.values.get(ZERO)
    stage = _whole(zero.get("stage")) if isinstance(zero, Mapping) else None
    if not isinstance(zero, Mapping) or isinstance(stage, bool) or stage not in (1, 2, 3):
        hint = f'write `"{ZERO}": {{"stage": 2}}` into {file.where}, or deepspeed=none'
        return {}, [fault(file.place(f"{ZERO}.stage"), "no ZeRO stage from 1 to 3", hint)]
    said: dict[str, tuple[Any, str]] = {"kind": ("zero", ZERO)}
    said["stage"] = (stage, f"{ZERO}.stage")
    asked = {k: v for k, v in zero.items() if k != "stage" and v != "auto"}
    claims: dict[str, Any] = {f"{ZERO}.{GATHER}": asked.pop(GATHER)} if GATHER in asked else {}
    for names in (FIELDS, OLD_OFFLOADS):
        for name in [known for known in names if known in asked]:
            said[names[name]] = (_whole(asked.pop(name)), f"{ZERO}.{name}")
    faults = [
        fault(file.place(f"{ZERO}.{name}"), f"`{ZERO}.{name}` is no mapping")
        for name in OFFLOADS
        if name in asked and not isinstance(asked[name], Mapping | None)
    ]
    for name in [] if faults else [known for known in OFFLOADS if known in asked]:
        offload = asked.pop(name) or {"device": "none"}
        rest, switches = _offload(name, offload)
        said |= switches
        if rest:
            asked[name] = rest
    more: dict[str, Any] = {ZERO: asked} if asked else {}
    _others(file.values, more, claims)
    said["more"] = (more, ZERO)
    placed = {
        name: {"value": value, "place": file.place(name)}
        for name, value in claims.items()
        if value != "auto"
    }
    said["claims"] = (placed, ZERO)
    return said, faults


def _offload(
    name: str, asked: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, tuple[Any, str]]]:
    """What is passed on of an offload, and the fields that it decides."""
    on = asked.get("device", "cpu") != "none"
    said: dict[str, tuple[Any, str]] = {OFFLOADS[name]: (on, f"{ZERO}.{name}")}
    if "pin_memory" in asked:
        said["pin_memory"] = (asked["pin_memory"], f"{ZERO}.{name}.pin_memory")
    rest = {k: v for k, v in asked.items() if k != "pin_memory" and (k, v) != ("device", "cpu")}
    return (rest if on else {}), said


def _others(values: Mapping[str, Any], more: dict[str, Any], claims: dict[str, Any]) -> None:
    """Sort what stands outside of `zero_optimization`."""
    for name, value in values.items():
        if name in ("bfloat16", *SWITCHES) and isinstance(value, Mapping):
            short = "bf16" if name == "bfloat16" else name
            if "enabled" in value:
                claims[f"{name}.enabled"] = value["enabled"]
            if rest := {k: v for k, v in value.items() if k != "enabled" and v != "auto"}:
                more[short] = rest
        elif name in OWNED:
            claims |= dict(below({name: value}))
        elif name != ZERO and not name.startswith("zero_") and value != "auto":
            # zero_allow_untested_optimizer and the like: the optimizer is the plan's
            more[name] = value


def _whole(value: Any) -> Any:
    """`5e8` as a whole number, as JSON has only one kind."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _filled(
    draft: Draft, file: DeepSpeedFile, said: dict[str, tuple[Any, str]], options: Options
) -> Draft:
    asked = draft.origins.chain(KEY)[-1]
    chosen = f"chosen by {asked.where}"
    preset = Preset(KEY, file.where, file.values, file.lines, chosen)
    draft = fill_section(draft, "deepspeed", f"stage{said['stage'][0]}", said, preset, options)
    for field in ("more", "claims"):
        _trace(draft, file, field, said[field][0], chosen)
    return draft


def _trace(draft: Draft, file: DeepSpeedFile, field: str, value: Any, chosen: str) -> None:
    """An origin for each leaf; `fill_section` gives one to the mapping."""
    for name, leaf in below(value, f"deepspeed.{field}."):
        key = name.removeprefix(f"deepspeed.{field}.").removesuffix(".value").removesuffix(".place")
        origin = Origin("file", file.where, leaf, file.lines.get(key), reason=chosen)
        draft.origins.add(name, origin)
