"""Resolved plans of a few compositions, checked in: a change of any value shows in the review.

`LLMFORGE_UPDATE_GOLDEN=1 pytest tests/golden` writes them anew; read the difference. The hardware
is fixed, and digests and installed versions are left out, so the files are the same everywhere.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmforge.render import shown

FOLDER = Path(__file__).parent

PLANS = {
    "default": ("hardware=cpu",),
    "smoke": ("experiment=smoke", "hardware=cpu"),
    "gsm8k": (
        "experiment=gsm8k", "data.train=qa.jsonl", "data.evaluation=held_out.jsonl", "hardware=cpu",
    ),
    "qlora_rtx4090": ("experiment=qlora", "model.path=tiny", "hardware=rtx4090"),
    "finetune_h200": (
        "model=folder", "model.path=tiny", "trainer=finetune", "optimizer=adamw_finetune",
        "checkpoint=best", "hardware=h200",
    ),
    "zero3_8xh100": (
        "model=folder", "model.path=tiny", "trainer=finetune", "optimizer=adamw_finetune",
        "deepspeed=stage3", "launch=torchrun", "hardware=h100_80gb", "hardware.count=8",
    ),
}  # fmt: skip


def flat(plan) -> str:
    """`key = value` of what was decided: settings, estimate, lowered keywords."""
    keys = [(key, value) for key, value in plan.leaves() if not key.startswith("facts.")]
    return "".join(f"{key} = {shown(value, 200)}\n" for key, value in keys)


@pytest.mark.parametrize("name", PLANS)
def test_plan(name, compiled):
    path = FOLDER / f"{name}.txt"
    text = flat(compiled(*PLANS[name]))
    if os.environ.get("LLMFORGE_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8")

    assert path.read_text(encoding="utf-8") == text


def test_no_file_without_a_plan():
    assert {path.stem for path in FOLDER.glob("*.txt")} == set(PLANS)


@pytest.mark.parametrize("name", PLANS)
def test_nothing_of_this_machine_is_in_it(name):
    text = (FOLDER / f"{name}.txt").read_text(encoding="utf-8")

    assert str(Path.home()) not in text
    assert str(FOLDER.parents[1]) not in text
    assert "/tmp" not in text
