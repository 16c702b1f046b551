"""What this project adds to llmforge: names, fields, and where the classes are.

`plugins: [preferences.components]` imports this module whenever a plan is made, so it is light:
the classes in `parts.py`, which need torch, are named as texts and imported in the worker. Every
number stands in `conf/experiment/preferences.yaml`; here stand types and bounds.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

import llmforge


@llmforge.dataset("preferences")
class Preferences(llmforge.BaseDataset):
    """Dialogues with a chosen and a rejected end; `text_field` says which of them is learnt."""

    must_have_keys = ("text_parts",)

    def __init__(self, data: list[dict[str, Any]], greeting: str = "") -> None:
        """`greeting` comes from the experiment: it goes before each training dialogue."""
        super().__init__(data)
        self.greeting = greeting

    @classmethod
    def get_data(cls, file: str, text_field: str, held_out: int) -> Any:
        """Two lists of dialogues; the last `held_out` ones are held out."""
        with Path(file).open(encoding="utf-8") as lines:
            rows = [json.loads(line) for line in lines]
        dialogues = [{"parts": [*row["dialogue"], row[text_field]]} for row in rows]
        return dialogues[:-held_out], dialogues[-held_out:]

    def get_sample(self, index: int) -> dict[str, Any]:
        """The parts of one dialogue, the answer last."""
        first, *rest = self.data[index]["parts"]
        return {"text_parts": [self.greeting + first, *rest]}


@llmforge.register("collator", "last_part", "preferences.parts:LastPart")
class LastPartSpec(llmforge.CollatorSpec):
    """Loss on the last part of a dialogue only."""

    kind: Literal["last_part"]
    separator: str
    """Between the parts."""
    skip_tokens: Annotated[int, Field(ge=0)]
    """Tokens at the start of the last part without loss."""


@llmforge.register("trainer", "counting", "preferences.parts:CountingTrainer")
class CountingSpec(llmforge.TrainerSpec):
    """Cross-entropy, and a count of the forward passes."""

    kind: Literal["counting"]
    report_every: Annotated[int, Field(ge=1)]
    """Forward passes between two lines."""


@llmforge.register("optimizer", "signed", "preferences.parts:SignedMomentum")
class SignedSpec(llmforge.OptimizerSpec):
    """The sign of a running mean of gradients."""

    kind: Literal["signed"]
    momentum: Annotated[float, Field(ge=0.0, lt=1.0)]
    """Share of the mean that is kept per step."""


@llmforge.register("callback", "diary", "preferences.parts:Diary")
class DiarySpec(llmforge.CallbackSpec):
    """Writes down what happened, one line each."""

    kind: Literal["diary"]
    file: str
    """Where to, from the working folder."""


@llmforge.register("metric", "right_tokens", "preferences.parts:TokenAccuracy")
class TokenAccuracySpec(llmforge.MetricSpec):
    """Share of trained tokens that are predicted."""

    kind: Literal["right_tokens"]


@llmforge.register("metric", "length_ratio", "preferences.parts:LengthRatio")
class LengthRatioSpec(llmforge.MetricSpec):
    """Length of the answers over that of the references."""

    on = "text"

    kind: Literal["length_ratio"]
    limit: Annotated[float, Field(gt=0.0)]
    """Longer answers count as this many times their reference."""


@llmforge.register("experiment", "watched", "preferences.parts:Watched")
class WatchedSpec(llmforge.ExperimentSpec):
    """Every hook notes that it was called."""

    kind: Literal["watched"]
    greeting: str
    """Goes before each training dialogue."""
    freeze_embeddings: bool
    """Train everything but the embeddings."""
