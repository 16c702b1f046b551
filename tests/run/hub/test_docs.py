"""The manual of uploads: its commands run in order, against a hub on the loopback."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stand_in_hub import StandIn

PAGE = Path(__file__).parents[3] / "docs" / "hub.md"
BLOCK = re.compile(r"^```(\w+)(?: (\S+))?\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_page(work: Path, hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN")
    ran = 0
    for language, name, body in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language == "text":
            Path(name).write_text(body, encoding="utf-8")
        if language != "console":
            continue
        change = {"HF_ENDPOINT": "http://127.0.0.1:9"} if name == "offline" else {}
        for part in body.split("$ llmforge ")[1:]:
            command, *shown = part.splitlines()
            done = subprocess.run(
                [sys.executable, "-m", "llmforge", *shlex.split(command)],
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=280,
                check=False, env=os.environ | change,
            )  # fmt: skip
            for line in shown:
                assert line.strip() in done.stdout, f"{command}\n{done.stdout}"
            refused = any("error[" in line or "has no" in line for line in shown)
            assert bool(done.returncode) is refused, done.stdout
            ran += 1
    assert ran >= 8
    assert hub.repositories["me/small"].private
    assert not hub.repositories["me/other"].private
    assert b"license: apache-2.0" in hub.files("me/small")["README.md"]
    assert "checkpoint/checkpoint.json" in hub.files("me/small")
