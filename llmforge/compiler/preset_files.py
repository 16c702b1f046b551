"""Presets in the JSON files of Void-Trainer, completed to ordinary sections.

In: a draft with `optimizer: {kind: file, path: preset.json}`. Out: the same with the section (and
the schedule that the preset brings) as the file says it, each value with the file's line as its
origin; what the file has no key for stands in the shipped option of the same kind. Faults of the
file become diagnostics, and the shipped option stands in, so that the rest is still checked.

Values are checked against their bounds later, like those of any other section.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmforge.compiler.preset_text import Preset, key_faults, read_preset
from llmforge.compose import Draft, compose
from llmforge.diagnostics import Diagnostic, near
from llmforge.origins import Origin, Origins

Options = tuple[Sequence[str | Path], Path | None]
"""Where options are looked for: the user's folders and the root."""


def fill_presets(
    draft: Draft, config_dirs: Sequence[str | Path] = (), root: Path | None = None
) -> Draft:
    """The draft with whole sections; itself when no preset file is named."""
    return _fill_optimizer(draft, (config_dirs, root))


def fill_section(
    draft: Draft,
    section: str,
    option: str,
    said: Mapping[str, tuple[Any, str]],
    preset: Preset | None,
    options: Options,
) -> Draft:
    """The section as an option has it, a preset's values over it, the user's own over those.

    Args:
        said: field -> (value, key of the preset that says it).
        preset: the file; None when it cannot be used.
    """
    shipped = compose([f"{section}={option}"], *options)
    values, origins = copy.deepcopy(draft.values), draft.origins.copy()
    own = {
        key: origins.chain(f"{section}.{key}")
        for key in values[section]
        if key not in ("kind", "path") and not _of_an_option(origins, section, key)
    }
    origins.drop(section)
    section_values = copy.deepcopy(shipped.values[section])
    for key in section_values:
        if key not in said and key not in own:
            for origin in shipped.origins.chain(f"{section}.{key}"):
                origins.add(f"{section}.{key}", origin)
    for field, (value, name) in said.items():
        section_values[field] = value
        if preset is not None:
            line = preset.lines.get(name)
            origin = Origin("file", preset.where, value, line, reason=preset.chosen_by)
            origins.add(f"{section}.{field}", origin)
    for key, chain in own.items():
        section_values[key] = values[section][key]
        for origin in chain:
            origins.add(f"{section}.{key}", origin)
    values[section] = section_values
    return replace(draft, values=values, origins=origins)


def _of_an_option(origins: Origins, section: str, key: str) -> bool:
    """Does the value come from the option's file, and not from an override or an overlay?"""
    last = origins.chain(f"{section}.{key}")[-1]
    return last.kind == "file" and Path(last.where).parent.name == section


# -- optimizer -----------------------------------------------------------------------------------

_BASES = {
    "AdamW": ("adamw", "adamw_s_ns"),
    "AdamW8bit": ("adamw_8bit", "adamw8bit_s_ns"),
    "Adafactor": ("adafactor", "adafactor_s_ns"),
}
"""Name in a preset -> kind, and the shipped preset that has what the files leave out."""

Reader = tuple[str, Callable[[Any], bool]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


_NUMBER: Reader = ("a number", _is_number)
_SWITCH: Reader = (
    "true or false",
    lambda value: isinstance(value, bool) or value in ("true", "false"),
)
_NAME: Reader = ("text", lambda value: isinstance(value, str))
_MARKS: Reader = (
    "a list of whole numbers",
    lambda value: isinstance(value, list) and value != [] and all(type(v) is int for v in value),
)

_COMMON: dict[str, Reader] = {
    "optimizer_name": _NAME, "learning_rate": _NUMBER, "weight_decay": _NUMBER,
    "gradient_clip": _NUMBER, "learning_rate_scheduler": _NAME, "milestone": _MARKS,
    "gamma": _NUMBER,
}  # fmt: skip
_FACTORED: dict[str, Reader] = {
    "decay_rate": _NUMBER, "scale_parameter": _SWITCH, "relative_step": _SWITCH,
    "warmup_init": _SWITCH,
}  # fmt: skip


def _fill_optimizer(draft: Draft, options: Options) -> Draft:
    section = draft.values.get("optimizer")
    if not isinstance(section, Mapping) or section.get("kind") != "file":
        return draft
    found: list[Diagnostic] = []
    path = section.get("path")
    preset: Preset | None = None
    if isinstance(path, str) and path != "???":
        read = read_preset("optimizer.path", path)
        if isinstance(read, Preset):
            asked = draft.origins.chain(read.key)[-1]
            preset = replace(read, chosen_by=f"chosen by {asked.where}")
            found += _optimizer_faults(preset)
        else:
            found.append(read)
    elif not any(one.key == "optimizer.path" for one in draft.diagnostics):
        found.append(Diagnostic("LF105", "`optimizer.path` has no value", key="optimizer.path"))
    if preset is None or found:
        draft = fill_section(draft, "optimizer", "adamw_s_ns", {}, None, options)
        return replace(draft, diagnostics=(*draft.diagnostics, *found))
    kind, option = _BASES[preset.values["optimizer_name"]]
    draft = fill_section(draft, "optimizer", option, _optimizer_said(preset, kind), preset, options)
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


def _optimizer_said(preset: Preset, kind: str) -> dict[str, tuple[Any, str]]:
    """Field of the section -> value and the preset's key for it."""
    clip = "clip_threshold" if kind == "adafactor" else "clip_value"
    names = {"learning_rate": "lr", "gradient_clip": clip, "weight_decay": "weight_decay"}
    if kind == "adafactor":
        names |= {name: name for name in _FACTORED}
    said: dict[str, tuple[Any, str]] = {"kind": (kind, "optimizer_name")}
    said["lr"] = (None, "learning_rate")  # of a relative step; any other preset has one
    for name, field in names.items():
        if name in preset.values:
            value = preset.values[name]
            said[field] = (value == "true" if value in ("true", "false") else value, name)
    return said


def _optimizer_faults(preset: Preset) -> list[Diagnostic]:
    values = preset.values
    name = values.get("optimizer_name")
    factored = name == "Adafactor"
    named = isinstance(name, str) and name in _BASES
    known = {**_COMMON, **(_FACTORED if factored or not named else {})}
    required = ["optimizer_name", "weight_decay", "gradient_clip"]
    if values.get("relative_step") not in (True, "true"):
        required.append("learning_rate")
    required += _FACTORED if factored else ()
    steps = values.get("learning_rate_scheduler")
    required += ("milestone", "gamma") if steps == "Multistep" else ()
    found = key_faults(preset, known, required)
    for key, (expected, fits) in known.items():
        if key in values and not fits(values[key]):
            shown = json.dumps(values[key], ensure_ascii=False)[:60]
            found.append(preset.fault(f"`{key}` is `{shown}`; expected {expected}", key))
    choices = {"optimizer_name": tuple(_BASES), "learning_rate_scheduler": ("Multistep",)}
    for key, allowed in choices.items():
        if isinstance(values.get(key), str) and values[key] not in allowed:
            guess = near(values[key], allowed, 1)
            hint = f"write `{guess[0]}` for `{values[key]}` in {preset.where}" if guess else None
            expected = " or ".join(f"`{choice}`" for choice in allowed)
            found.append(
                preset.fault(f"`{key}` is `{values[key]}`; expected {expected}", key, hint)
            )
    return found
