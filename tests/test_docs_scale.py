"""`docs/scale.md`: its commands are run, its sections are those people look for."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmforge.codes import known_codes
from llmforge.schema.docs import docs_of
from llmforge.schema.launching import LaunchSpec

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BLOCK = re.compile(r"^```(console|files)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def test_every_command(work: Path, llmforge: Callable[[str], Any], everything_installed) -> None:
    ran = 0
    for kind, body in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if kind == "files":
            name, _, content = body.partition("\n")
            (work / name).write_text(content, encoding="utf-8")
            continue
        for part in re.split(r"^\$ llmforge ", body, flags=re.MULTILINE)[1:]:
            command, *shown = part.splitlines()
            if command.startswith("doctor"):
                continue  # it starts processes: tests/run/test_scale.py
            told = llmforge(command)
            ran += 1
            assert told.code == 0, f"{command}\n{told.err}"
            for line in shown:
                assert line in told.out
    assert ran == 11


def test_a_section_for_each_size() -> None:
    heads = re.findall(r"^## (.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert heads[:5] == ["One GPU", "Many GPUs", "Many machines", "Ray", "Slurm"]


def test_codes_and_settings_exist() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert set(re.findall(r"LF\d{3}", text)) <= set(known_codes())
    known = {name for spec in LaunchSpec.__subclasses__() for name in spec.model_fields}
    assert set(re.findall(r"launch\.(\w+)", text)) <= known
    assert all(docs_of(spec) for spec in LaunchSpec.__subclasses__())
