"""Ending a weak trial: each evaluation is put to a judge, and all ranks hear one answer.

In: the Trainer's evaluations, a judge on rank 0. Out: a loop that ends after the evaluation at
which the judge says so, its state saved. Which evaluation it is, is worked out from the record
(`log_history`), which every checkpoint holds: a run that was killed and goes on counts on.

Who the judge asks and what becomes of the run is the runner's business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.build.early_stopping import reported_as


class Judge(Protocol):
    """Decides whether a run goes on."""

    objective: str

    def weigh(self, evaluation: int, value: float) -> str | None:
        """The reason to end the run after this evaluation, or None."""


class PruningCallback(TrainerCallback):  # type: ignore[misc]
    """Ends the training where the judge finds it not worth going on."""

    def __init__(self, judge: Judge, main: bool) -> None:
        """
        Args:
            judge: asked on rank 0 only.
            main: is this rank 0?
        """
        self._judge, self._main = judge, main
        self._metric = reported_as(judge.objective)
        self._group: Any = None
        self.found: str | None = None
        """Why the run is to end; None as long as it is not."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Several ranks agree by a group of their own, on the CPU."""
        del state, control, kwargs
        if args.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Judge an evaluation during training; the last step's is told, but ends nothing."""
        del args, kwargs
        if self.found is not None or not state.global_step:
            return
        seen = evaluations(state.log_history, self._metric)
        if not seen or seen[-1][0] != state.global_step:
            return
        reason = self._judge.weigh(len(seen), seen[-1][1]) if self._main else None
        if state.global_step < state.max_steps and self._agreed(reason is not None):
            self.found = reason or "pruned"
            control.should_training_stop = True
            control.should_save = True

    def _agreed(self, ends: bool) -> bool:
        """Rank 0's answer."""
        if self._group is None:
            return ends
        flag = torch.tensor(int(ends))
        torch.distributed.broadcast(flag, src=0, group=self._group)
        return bool(flag.item())


def evaluations(history: Iterable[Mapping[str, Any]], metric: str) -> list[tuple[int, float]]:
    """Step and value of each evaluation during training, once a step, oldest first."""
    found: dict[int, float] = {}
    for entry in history:
        if metric in entry and entry.get("step"):
            value = entry[metric]
            found.setdefault(int(entry["step"]), math.nan if value is None else float(value))
    return sorted(found.items())
