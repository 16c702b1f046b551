"""Optimizer presets of Void-Trainer: which keys a file has, and which settings they are.

In: a draft with `optimizer: {kind: file, path: preset.json}`. Out: the same with an ordinary
section `optimizer`, and the section `schedule` where the file has milestones. How a file becomes a
section is in `preset_section.py`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmforge.compiler.preset_section import (
    NUMBER,
    TEXT,
    Options,
    Reader,
    fill_section,
    is_file,
    open_preset,
    value_faults,
)
from llmforge.compiler.preset_text import Preset
from llmforge.compose import Draft
from llmforge.diagnostics import Diagnostic

_BASES = {
    "AdamW": ("adamw", "adamw_s_ns"),
    "AdamW8bit": ("adamw_8bit", "adamw8bit_s_ns"),
    "Adafactor": ("adafactor", "adafactor_s_ns"),
}
"""Name in a preset -> kind, and the shipped preset that has what the files leave out."""

_SWITCH: Reader = (
    "true or false",
    lambda value: isinstance(value, bool) or value in ("true", "false"),
)
_MARKS: Reader = (
    "a list of whole numbers",
    lambda value: isinstance(value, list) and value != [] and all(type(v) is int for v in value),
)

COMMON: dict[str, Reader] = {
    "optimizer_name": TEXT, "learning_rate": NUMBER, "weight_decay": NUMBER,
    "gradient_clip": NUMBER, "learning_rate_scheduler": TEXT, "milestone": _MARKS,
    "gamma": NUMBER,
}  # fmt: skip
"""Keys that every file may have."""

FACTORED: dict[str, Reader] = {
    "decay_rate": NUMBER, "scale_parameter": _SWITCH, "relative_step": _SWITCH,
    "warmup_init": _SWITCH,
}  # fmt: skip
"""Keys of Adafactor's files, beside those."""


def fill_optimizer(draft: Draft, options: Options) -> Draft:
    """The draft with a whole section `optimizer`; itself when it is no preset file."""
    if not is_file(draft, "optimizer"):
        return draft
    preset, found = open_preset(draft, "optimizer")
    if preset is not None:
        found += _faults(preset)
    if preset is None or found:
        draft = fill_section(draft, "optimizer", "adamw_s_ns", {}, None, options)
        return replace(draft, diagnostics=(*draft.diagnostics, *found))
    kind, option = _BASES[preset.values["optimizer_name"]]
    draft = fill_section(draft, "optimizer", option, _said(preset, kind), preset, options)
    steps = preset.values.get("learning_rate_scheduler") == "Multistep"
    # `optimizer=file` chooses `fixed`; any other schedule was chosen over it
    if steps and draft.choices.get("schedule") == "fixed":
        said = {
            "milestones": (preset.values["milestone"], "milestone"),
            "gamma": (preset.values["gamma"], "gamma"),
            "kind": ("multistep", "learning_rate_scheduler"),
        }
        draft = fill_section(draft, "schedule", "ms_1", said, preset, options)
    return draft


def _said(preset: Preset, kind: str) -> dict[str, tuple[Any, str]]:
    """Field of the section -> value and the preset's key for it."""
    clip = "clip_threshold" if kind == "adafactor" else "clip_value"
    names = {"learning_rate": "lr", "gradient_clip": clip, "weight_decay": "weight_decay"}
    if kind == "adafactor":
        names |= {name: name for name in FACTORED}
    said: dict[str, tuple[Any, str]] = {"kind": (kind, "optimizer_name")}
    said["lr"] = (None, "learning_rate")  # of a relative step; any other preset has one
    for name, field in names.items():
        if name in preset.values:
            value = preset.values[name]
            said[field] = (value == "true" if value in ("true", "false") else value, name)
    return said


def _faults(preset: Preset) -> list[Diagnostic]:
    values = preset.values
    name = values.get("optimizer_name")
    factored = name == "Adafactor"
    named = isinstance(name, str) and name in _BASES
    readers = {**COMMON, **(FACTORED if factored or not named else {})}
    required = ["optimizer_name", "weight_decay", "gradient_clip"]
    if values.get("relative_step") not in (True, "true"):
        required.append("learning_rate")
    required += FACTORED if factored else ()
    steps = values.get("learning_rate_scheduler")
    required += ("milestone", "gamma") if steps == "Multistep" else ()
    choices = {"optimizer_name": tuple(_BASES), "learning_rate_scheduler": ("Multistep",)}
    found = value_faults(preset, readers, required, choices)
    return found if steps is not None else [*found, *_unread(preset)]


def _unread(preset: Preset) -> list[Diagnostic]:
    """Steps of a schedule that the file does not name: the rate would stay flat, unsaid."""
    return [
        preset.fault(
            f"`{name}` without `learning_rate_scheduler`, which would read it",
            name,
            f'write `"learning_rate_scheduler": "Multistep"` into {preset.where}, or take '
            f"`{name}` out",
        )
        for name in ("milestone", "gamma")
        if name in preset.values
    ]
