"""Early stopping: a run that no longer gets better ends, and its best checkpoint is the model.

In: the Trainer's record of evaluations, and what counts as better. Out: `Stalled`, or None; and a
callback that ends the training then. The count of evaluations without improvement is no state of
its own: it is worked out from the record (`log_history`), which every checkpoint holds. So a run
that was killed and goes on stops at the same evaluation as one that was not.

Which metric counts is `checkpoint.best`; keeping and loading the best checkpoint is the Trainer's.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.plan import Plan


@dataclass(frozen=True)
class Stalled:
    """A run that has not improved for as many evaluations as it may."""

    metric: str
    step: int
    """Optimizer step of the evaluation at which patience ended."""
    best: float
    best_step: int
    evaluations: int
    """Without improvement."""

    def __str__(self) -> str:
        """For people."""
        return (
            f"stopped early at step {self.step}: `{self.metric}` has not improved in "
            f"{self.evaluations} evaluation{'s' if self.evaluations > 1 else ''}; it was "
            f"{self.best:.4g} at step {self.best_step}"
        )


class StoppedEarly(Exception):
    """Raised before the first step of a resumed run whose patience had ended already."""

    def __init__(self, found: Stalled) -> None:
        super().__init__(str(found))
        self.found = found


@dataclass(frozen=True)
class Patience:
    """When a run has stalled."""

    metric: str
    """As evaluations report it: `eval_loss`."""
    maximize: bool
    evaluations: int
    """How many in a row may bring no improvement."""
    min_improvement: float
    """Less than this, in the metric's unit, is none."""

    def judge(self, history: Iterable[Mapping[str, Any]]) -> Stalled | None:
        """Look through a `log_history`, oldest first.

        What is compared with is the last value that counted as an improvement, so many small steps
        add up. A NaN improves nothing.
        """
        best, best_step, since = 0.0, 0, 0
        for step, value in self._values(history):
            gain = value - best if self.maximize else best - value
            better = not best_step or gain > self.min_improvement
            # a NaN to begin with is nothing to compare with
            if better and not math.isnan(value):
                best, best_step, since = value, step, 0
                continue
            since += 1
            if since >= self.evaluations:
                return Stalled(self.metric, step, best, best_step, since)
        return None

    def _values(self, history: Iterable[Mapping[str, Any]]) -> Iterable[tuple[int, float]]:
        """Step and value of each evaluation during training, once a step."""
        found: dict[int, float] = {}
        for entry in history:
            if self.metric in entry and entry.get("step"):
                found.setdefault(int(entry["step"]), float(entry[self.metric]))
        return sorted(found.items())


def patience_of(plan: Plan) -> Patience | None:
    """What the plan asks for; None where early stopping is off."""
    evaluation, checkpoint = plan.spec.evaluation, plan.spec.checkpoint
    if evaluation.patience is None or checkpoint.best is None:
        return None
    return Patience(
        reported_as(checkpoint.best),
        checkpoint.best_direction == "maximize",
        evaluation.patience,
        evaluation.min_improvement,
    )


def reported_as(metric: str) -> str:
    """A metric's name during training: the Trainer puts `eval_` before those that lack it."""
    return metric if metric.startswith("eval_") else f"eval_{metric}"


class EarlyStopping(TrainerCallback):  # type: ignore[misc]
    """Ends the training at the evaluation at which patience ends, its state saved."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self.found: Stalled | None = None
        """Why the run was ended; None as long as it was not."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A checkpoint may be from the very step at which the run ended.

        The Trainer looks whether it shall stop only after a step, so it must not begin one.

        Raises:
            StoppedEarly: there is nothing left to train.
        """
        del args, control, kwargs
        self.found = self._patience.judge(state.log_history)
        if self.found is not None:
            raise StoppedEarly(self.found)

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Judge after each evaluation of the training; the one before it and the last one are none.

        The last step's cannot end what is over anyway.
        """
        del args, kwargs
        if self.found is not None or not 0 < state.global_step < state.max_steps:
            return
        self.found = self._patience.judge(state.log_history)
        if self.found is not None:
            control.should_training_stop = True
            control.should_save = True


def early_stopping(plan: Plan) -> list[EarlyStopping]:
    """The plan's callback, if it asks for one; goes behind `EvaluationApart`."""
    patience = patience_of(plan)
    return [] if patience is None else [EarlyStopping(patience)]
