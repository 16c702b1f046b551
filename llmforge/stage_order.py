"""The stages of a run: their order, and why a plan leaves some of them out.

In: a stage, a plan's settings, whether rows are held out. Out: None where the plan asks for the
stage, else the reason. The command line, the plan and the chain of stages read this one table.

What a stage's result depends on is the plan's (`plan.py`); how it is done is the runner's.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

Stage = Literal["prepare", "train", "evaluate", "fuse", "quantize", "answers"]

STAGES: tuple[Stage, ...] = get_args(Stage)
"""In the order they are done. `answers` asks the same questions of the model and of all that was
made of it."""

Making = Literal["fuse", "quantize"]
"""Stages that make something of a finished model."""

FOLDERS: dict[Making, str] = {"fuse": "fused", "quantize": "quantized"}
"""What they make: also the name of its folder in the run folder."""


def left_out(stage: str, settings: Mapping[str, Any], held_out: bool) -> str | None:
    """Why a plan does not ask for a stage; None where it does.

    Args:
        settings: the plan's, all sections.
        held_out: are there rows to evaluate on?
    """
    packed = settings["quantize"]["kind"] != "none"
    if stage == "evaluate" and not held_out:
        return "no rows are held out"
    if stage == "fuse":
        if settings["lora"]["kind"] == "none":
            return "the run trains no adapter"
        return None if settings["fuse"]["after_training"] or packed else "fuse.after_training=false"
    if stage == "quantize":
        return None if packed else "quantize=none"
    if stage == "answers":
        if not settings["evaluation"]["samples"]:
            return "evaluation.samples=0"
        if not held_out:
            return "no rows are held out"
        made = any(left_out(one, settings, held_out) is None for one in FOLDERS)
        return None if made else "nothing is made of the trained model"
    return None
