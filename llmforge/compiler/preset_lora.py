"""LoRA presets of Void-Trainer: which keys a file has, and which settings they are.

In: a draft with `lora: {kind: file, path: preset.json}`. Out: the same with an ordinary section
`lora` of kind `lora`; what the files have no key for stands in the shipped option `small`. How a
file becomes a section is in `preset_section.py`.

A file names modules, so it fits the architectures that have them; that a name is missing from the
plan's model is told like any other such target (LF601).
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from llmforge.compiler.preset_section import (
    NUMBER,
    TEXT,
    WHOLE,
    Options,
    Reader,
    fill_section,
    is_file,
    open_preset,
    value_faults,
)
from llmforge.compiler.preset_text import Preset
from llmforge.compose import Draft

_BASE = "small"
"""The shipped option that has what the files leave out."""

_PLACEHOLDER = "xxx"
"""Second name in the system's own GPT-NeoX files, which is no module of any model."""


def _names(value: Any) -> bool:
    if isinstance(value, str):
        return value != ""
    return (
        isinstance(value, list)
        and bool([name for name in value if name != _PLACEHOLDER])
        and all(isinstance(name, str) and name for name in value)
    )


_MODULES: Reader = ("a list of names of modules", _names)

_FIELDS = {
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "target_modules": "targets",
    "bias": "bias",
}
"""Key of a file -> field of the section."""

READERS: dict[str, Reader] = {
    "lora_r": WHOLE, "lora_alpha": WHOLE, "lora_dropout": NUMBER, "target_modules": _MODULES,
    "bias": TEXT, "task_type": TEXT, "peft_type": TEXT,
}  # fmt: skip
"""Every key that a file may have, and what it holds."""

_REQUIRED = (*_FIELDS, "task_type")
_CHOICES = {
    "bias": ("none", "all", "lora_only"),
    "task_type": ("CAUSAL_LM",),
    "peft_type": ("Lora", "LORA"),
}


def fill_lora(draft: Draft, options: Options) -> Draft:
    """The draft with a whole section `lora`; itself when it is no preset file."""
    if not is_file(draft, "lora"):
        return draft
    preset, found = open_preset(draft, "lora", kept=("bias",))
    if preset is not None:
        if preset.values.get("bias") == "None":  # so written in the system's first files
            preset = replace(preset, values={**preset.values, "bias": "none"})
        found += value_faults(preset, READERS, _REQUIRED, _CHOICES)
    if preset is None or found:
        draft = fill_section(draft, "lora", _BASE, {}, None, options)
        return replace(draft, diagnostics=(*draft.diagnostics, *found))
    return fill_section(draft, "lora", _BASE, _said(preset), preset, options)


def _said(preset: Preset) -> dict[str, tuple[Any, str]]:
    """Field of the section -> value and the preset's key for it."""
    said = {field: (preset.values[name], name) for name, field in _FIELDS.items()}
    targets = preset.values["target_modules"]
    if isinstance(targets, list):
        modules = [name for name in targets if name != _PLACEHOLDER]
        said["targets"] = (modules, "target_modules")
    return said
