"""A preset file as text: a flat JSON object, its keys and their lines.

In: a path. Out: `Preset`, or the finding that says why there is none; `key_faults` says which keys
nothing reads and which are missing. What the keys mean is the business of `preset_optimizer.py` and
`preset_lora.py`.

A file is data: nothing in it is run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.diagnostics import Diagnostic, near

LARGEST = 1_000_000
"""Bytes of a preset beyond which it is none."""


@dataclass(frozen=True)
class Preset:
    """One file: what it says, and where."""

    key: str
    """The setting that named it, such as `optimizer.path`."""
    where: str
    values: dict[str, Any]
    """Without keys that say `null` or "none", unless "none" is one of the key's values."""
    lines: dict[str, int]
    chosen_by: str = ""
    """What named it, in words."""

    def fault(self, message: str, name: str | None = None, hint: str | None = None) -> Diagnostic:
        """A finding about the file, or about one of its keys."""
        place = f"{self.where}:{self.lines[name]}" if name in self.lines else self.where
        return Diagnostic("LF316", f"{place}: {message}", key=self.key, hint=hint)


def read_preset(key: str, path: str, kept: Iterable[str] = ()) -> Preset | Diagnostic:
    """A flat JSON object from a file, or why there is none.

    Args:
        key: the setting that named the file.
        kept: keys for which the text "none" is a value, and not its absence.
    """
    empty = Preset(key, path, {}, {})
    try:
        with Path(path).open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        return empty.fault(f"cannot be read ({(error.strerror or str(error)).lower()})")
    if len(raw) > LARGEST:
        return empty.fault(f"larger than {LARGEST:,} bytes; a preset is a few lines")
    try:
        text = raw.decode("utf-8-sig")
        pairs = json.loads(text, object_pairs_hook=tuple, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        return empty.fault(f"not JSON ({error})")
    if not isinstance(pairs, tuple):  # what an object became; a list stays a list
        return empty.fault("not a JSON object of settings")
    lines = {name: _line_of(name, text) for name, _ in pairs}
    whole = set(kept)
    values = {
        name: value
        for name, value in pairs
        if value is not None and (name in whole or value not in ("none", "None"))
    }
    preset = Preset(key, path, values, lines)
    twice = [name for index, (name, _) in enumerate(pairs) if name in dict(pairs[:index])]
    return preset.fault(f"`{twice[0]}` stands there twice", twice[0]) if twice else preset


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _line_of(name: str, text: str) -> int:
    found = re.search(rf"{re.escape(json.dumps(name, ensure_ascii=False))}\s*:", text)
    return text.count("\n", 0, found.start()) + 1 if found else 1


def key_faults(preset: Preset, known: Iterable[str], required: Iterable[str]) -> list[Diagnostic]:
    """Keys that nothing reads and keys that are missing; a misspelt one is told once."""
    found, meant = [], set()
    known = list(known)
    for name in preset.values:
        if name in known:
            continue
        guess = near(name, [other for other in known if other not in preset.values], 1)
        meant |= set(guess)
        hint = f"write `{guess[0]}` for `{name}` in {preset.where}" if guess else None
        found.append(preset.fault(f"unknown key `{name}`", name, hint))
    missing = [name for name in required if name not in preset.values and name not in meant]
    return found + [
        preset.fault(f"no key `{name}`", hint=f"add `{name}` to {preset.where}") for name in missing
    ]
