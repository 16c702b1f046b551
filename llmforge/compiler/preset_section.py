"""What all preset files share: a section with a file's values in it, and the checks of its values.

In: a draft, a section of kind `file`, and readers that say what each key of the file may hold. Out:
the draft with the section of a shipped option, the file's values over it with the file's lines as
their origins; findings about keys and values. What the keys mean is in `preset_optimizer.py` and
`preset_lora.py`.

Values are checked against their bounds later, like those of any other section.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmforge.compiler.preset_text import Preset, key_faults, read_preset
from llmforge.compose import Draft, compose
from llmforge.diagnostics import Diagnostic, near
from llmforge.origins import Origin

Options = tuple[Sequence[str | Path], Path | None]
"""Where options are looked for: the user's folders and the root."""

Reader = tuple[str, Callable[[Any], bool]]
"""What a key may hold, in words, and whether a value fits."""

Said = Mapping[str, tuple[Any, str]]
"""Field of a section -> its value, and the file's key for it."""


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


NUMBER: Reader = ("a number", _is_number)
WHOLE: Reader = ("a whole number", lambda value: type(value) is int)
TEXT: Reader = ("text", lambda value: isinstance(value, str))


def is_file(draft: Draft, section: str) -> bool:
    """Is the section a preset file that is to be read?"""
    found = draft.values.get(section)
    return isinstance(found, Mapping) and found.get("kind") == "file"


def open_preset(
    draft: Draft, section: str, kept: Iterable[str] = ()
) -> tuple[Preset | None, list[Diagnostic]]:
    """The file that `<section>.path` names, or why there is none.

    Args:
        kept: keys for which the text "none" is a value, and not its absence.
    """
    key = f"{section}.path"
    path = draft.values[section].get("path")
    if isinstance(path, str) and path != "???":
        read = read_preset(key, path, kept)
        if isinstance(read, Diagnostic):
            return None, [read]
        asked = draft.origins.chain(key)[-1]
        return replace(read, chosen_by=f"chosen by {asked.where}"), []
    if any(one.key == key for one in draft.diagnostics):
        return None, []
    return None, [Diagnostic("LF105", f"`{key}` has no value", key=key)]


def value_faults(
    preset: Preset,
    readers: Mapping[str, Reader],
    required: Iterable[str],
    choices: Mapping[str, Sequence[str]],
) -> list[Diagnostic]:
    """Keys that nothing reads or that are missing, values of another type, unknown names.

    Args:
        choices: key -> the texts that it may hold.
    """
    found = key_faults(preset, readers, required)
    for key, (expected, fits) in readers.items():
        if key in preset.values and not fits(preset.values[key]):
            shown = json.dumps(preset.values[key], ensure_ascii=False)[:60]
            found.append(preset.fault(f"`{key}` is `{shown}`; expected {expected}", key))
    for key, allowed in choices.items():
        value = preset.values.get(key)
        if isinstance(value, str) and value not in allowed:
            guess = near(value, allowed, 1)
            hint = f"write `{guess[0]}` for `{value}` in {preset.where}" if guess else None
            expected = " or ".join(f"`{choice}`" for choice in allowed)
            found.append(preset.fault(f"`{key}` is `{value}`; expected {expected}", key, hint))
    return found


def fill_section(
    draft: Draft,
    section: str,
    option: str,
    said: Said,
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
        key: [origin for origin in chain if not _of_an_option(origin, section)]
        for key, chain in ((key, origins.chain(f"{section}.{key}")) for key in values[section])
        if key not in ("kind", "path") and not _of_an_option(chain[-1], section)
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


def _of_an_option(origin: Origin, section: str) -> bool:
    """Is it an option's file, and no override or overlay?"""
    return origin.kind == "file" and Path(origin.where).parent.name == section
