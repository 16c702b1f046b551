"""Saving by the clock: a checkpoint at the end of the first step after so much time.

In: a plan whose `checkpoint.every` is a duration (`30min`), the Trainer's events. Out: a callback
that asks for saves. All ranks save at the same step, by the clock of rank 0.

Other intervals are the training arguments' affair, and so is writing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.plan import Plan
from llmforge.schema.base import seconds_of


def saves_by_clock(plan: Plan) -> list[TrainerCallback]:
    """The callback, if the plan saves by the clock."""
    seconds = seconds_of(plan.spec.checkpoint.every)
    return [] if seconds is None else [SaveByClock(seconds)]


class SaveByClock(TrainerCallback):  # type: ignore[misc]
    """Asks for a save when `seconds` have passed since the last one, and at the last step.

    Time counts from the first step of an attempt: a resumed run has a checkpoint of that moment.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._seconds, self._clock = seconds, clock
        self._last = clock()
        self._group: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Several ranks agree by a group of their own, on the CPU: no device is waited for."""
        del state, control, kwargs
        if args.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        self._last = self._clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After an optimizer step."""
        del args, kwargs
        if self._due() or state.global_step >= state.max_steps:
            control.should_save = True

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The next one is due so much after this, whoever asked for it."""
        del args, state, control, kwargs
        self._last = self._clock()

    def _due(self) -> bool:
        due = self._clock() - self._last >= self._seconds
        if self._group is None:
            return due
        told = torch.tensor(int(due))
        torch.distributed.broadcast(told, src=0, group=self._group)
        return bool(told.item())
