"""A DeepSpeed JSON as text: its keys, values and lines.

In: a path. Out: `DeepSpeedFile`, or the finding that says why there is none (LF432). Nothing in the
file is run. What the keys mean is in `preset_deepspeed.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.compose.lines import key_lines
from llmforge.diagnostics import Diagnostic

LARGEST = 1_000_000
"""Bytes beyond which a file is no configuration."""

KEY = "deepspeed.path"


@dataclass(frozen=True)
class DeepSpeedFile:
    """One file."""

    where: str
    values: dict[str, Any]
    lines: dict[str, int]
    """Dotted key -> line."""

    def place(self, name: str) -> str:
        """`file:line` of a key, as far as it is known."""
        return f"{self.where}:{self.lines[name]}" if name in self.lines else self.where


def fault(where: str, message: str, hint: str | None = None) -> Diagnostic:
    """A file that cannot be used."""
    return Diagnostic("LF432", f"{where}: {message}", key=KEY, hint=hint)


def read_deepspeed(path: str) -> DeepSpeedFile | Diagnostic:
    """The file, or why there is none."""
    try:
        with Path(path).open("rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        return fault(path, f"cannot be read ({(error.strerror or str(error)).lower()})")
    if len(raw) > LARGEST:
        return fault(path, f"larger than {LARGEST:,} bytes")
    twice: list[str] = []
    try:
        text = raw.decode("utf-8-sig")
        values = json.loads(
            text, object_pairs_hook=lambda pairs: _once(pairs, twice), parse_constant=_no_number
        )
    except (ValueError, RecursionError) as error:
        return fault(path, f"not JSON ({error})")
    if not isinstance(values, dict):
        return fault(path, "not a JSON object of settings")
    if twice:
        return fault(path, f"`{twice[0]}` stands there twice")
    return DeepSpeedFile(path, values, key_lines(text))


def _once(pairs: list[tuple[str, Any]], twice: list[str]) -> dict[str, Any]:
    names = [name for name, _ in pairs]
    twice += [name for name in dict.fromkeys(names) if names.count(name) > 1]
    return dict(pairs)


def _no_number(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def below(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted key and value of everything that is no mapping."""
    for name, value in values.items():
        if isinstance(value, Mapping):
            yield from below(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
