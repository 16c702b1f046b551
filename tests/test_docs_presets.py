"""`docs/presets.md`: its files are written, its commands accepted, what they print is there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmforge.compiler import preset_lora, preset_optimizer
from llmforge.compose import options

PAGE = Path(__file__).parents[1] / "docs" / "presets.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_every_command_of_the_page(
    work: Path,
    llmforge: Callable[[str], Any],
    checkpoint: Callable[..., Path],
    everything_installed: dict[str, str],
) -> None:
    checkpoint(work / "tiny")
    ran = 0
    for language, name, body in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if name:
            (work / name).parent.mkdir(parents=True, exist_ok=True)
            (work / name).write_text(body, encoding="utf-8")
        if language != "console":
            continue
        for part in re.split(r"^\$ llmforge ", body, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            told = llmforge(command)
            ran += 1
            assert told.code == 0, f"{command}\n{told.out}{told.err}"
            assert [line for line in shown if line not in told.out + told.err] == [], told.out
    assert ran == 9


def test_every_recipe_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    published = [o.name for o in options("experiment") if o.name.startswith(("xllm", "superduper"))]

    assert len(published) == 5
    assert [name for name in published if f"experiment={name}" not in text] == []


def test_every_key_of_a_file_is_named() -> None:
    text = PAGE.read_text(encoding="utf-8")
    keys = [*preset_lora.READERS, *preset_optimizer.COMMON, *preset_optimizer.FACTORED]

    assert [key for key in keys if f"`{key}`" not in text] == []
