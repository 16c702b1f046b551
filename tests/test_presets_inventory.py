"""The tables of the preset tests are those of the inventory of older systems, where it is at hand.

The inventory lies beside a developer's checkout and is no part of the project; elsewhere this is
skipped, and the tables stand for it.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from test_presets_lora import ROWS as LORA
from test_presets_optimizer import ROWS as OPTIMIZERS

INVENTORY = Path(__file__).parents[2] / "shared" / "reference" / "seed-inventory.md"

pytestmark = pytest.mark.skipif(not INVENTORY.is_file(), reason="the inventory is not here")


def rows(prefix: str) -> list[list[str]]:
    """Cells of the table rows whose ID begins so, the ID left out."""
    found = re.findall(rf"^\| {prefix}\d\S* \|(.*)\|$", INVENTORY.read_text("utf-8"), re.MULTILINE)
    return [[cell.strip() for cell in row.split("|")] for row in found]


def number(text: str) -> float | None:
    found = re.match(r"-?[\d.]+(e-?\d+)?", text)
    return float(found[0]) if found else None


def test_every_number_of_the_optimizers() -> None:
    theirs = []
    for name, rate, decay, clip, schedule, decay_rate, switches, *_ in rows("VP"):
        gamma = re.search(r"gamma ([\d.]+)", schedule)
        assert "milestones" not in schedule or "4, 8, 12" in schedule
        numbers = (number(rate), number(decay), number(clip), gamma and float(gamma[1]))
        switch = switches.partition(" ")[0] or "-"
        theirs.append([name.lower(), *numbers, number(decay_rate), switch])

    ours = [[row[0], *map(number, row[1:6]), row[6]] for row in OPTIMIZERS]
    assert len(theirs) == 17
    assert theirs == ours


def test_every_number_of_the_adapters() -> None:
    theirs = rows("VL")

    assert len(theirs) == 8  # each for two architectures
    assert theirs == [row[1:] for row in LORA]
