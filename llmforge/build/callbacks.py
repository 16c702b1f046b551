"""Callbacks: what watches the training loop.

In: the Trainer's events. Out: a progress display and numbers for the record. What they talk to is
given to them and described by protocols, so that nothing here knows the runner or a tracker. What
may end the loop early stands in `stopping.py`. Ranks above 0 get those callbacks alone.

They decide nothing about intervals: the plan's training arguments do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from llmforge.build.progress import Pace, Screen, TrainingBar
from llmforge.build.stopping import EpochOrder, EvaluationApart, StopCallback

__all__ = [
    "EpochOrder",
    "EvaluationApart",
    "LastStepCallback",
    "ProgressCallback",
    "Record",
    "StopCallback",
    "TrackerCallback",
]

Record = Callable[[Mapping[str, float], int], None]
"""Takes named numbers and the optimizer step they belong to."""

RENAMED = {"loss": "train_loss", "eval_exact_match": "exact_match"}
"""The Trainer's names, where the project has others."""
DROPPED = ("_runtime", "_per_second", "_preparation_time", "total_flos", "num_input_tokens_seen")


class TrackerCallback(TrainerCallback):  # type: ignore[misc]
    """Hands every number to the record, under the project's names."""

    def __init__(self, record: Record, pace: Pace) -> None:
        self._record, self._pace = record, pace

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Losses, rates and norms; not the summary that the Trainer prints at the end."""
        del args, control, kwargs
        if not logs or "train_runtime" in logs:
            return
        kept = {RENAMED.get(k, k): v for k, v in logs.items() if not k.endswith(DROPPED)}
        if "loss" in logs and self._pace.tokens_per_second:
            kept["tokens_per_second"] = self._pace.tokens_per_second
        self._record(kept, state.global_step)


class LastStepCallback(TrainerCallback):  # type: ignore[misc]
    """Records the last step, whatever the interval: it holds the loss that the run ends with.

    On every rank, since logging gathers the loss over all of them.
    """

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Ask for a log line at the end, unless logging is off."""
        del kwargs
        if state.global_step >= state.max_steps and args.logging_strategy != "no":
            control.should_log = True


class ProgressCallback(TrainerCallback):  # type: ignore[misc]
    """A bar with live figures on a terminal; elsewhere a line each time the Trainer logs."""

    def __init__(self, screen: Screen, pace: Pace) -> None:
        self._screen, self._pace = screen, pace
        self._bar: TrainingBar | None = None
        self._last_evaluation = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start at the step that a resumed run continues from."""
        del args, control, kwargs
        self._pace.start(state.global_step)
        if self._screen.live:
            self._bar = TrainingBar(self._screen, state.max_steps, state.global_step)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The clock of this step."""
        del args, state, control, kwargs
        self._pace.begin()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Move on."""
        del args, control, kwargs
        self._pace.end(state.global_step)
        if self._bar:
            self._bar.step(state.global_step, self._pace)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """The newest loss and rate."""
        del args, control, kwargs
        if not logs or "loss" not in logs:
            return
        left = self._pace.seconds_left(state.max_steps)
        parts = [
            f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}",
            f"loss {logs['loss']:.4f}",
            f"lr {logs.get('learning_rate', 0.0):.2e}",
            f"{self._pace.tokens_per_second:,.0f} tokens/s" if self._pace.tokens_per_second else "",
            f"{left // 60:.0f}:{left % 60:02.0f} left" if left is not None else "",
        ]
        line = "  ".join(filter(None, parts))
        if self._bar:
            self._bar.figures(logs["loss"], logs.get("learning_rate"))
            self._screen.note(line)
        else:
            self._screen.say(line)

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Show that the bar stands still for a reason; the clock does not count it."""
        del args, state, control, kwargs
        self._pace.pause()
        if self._bar:
            self._bar.evaluating()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Saving is not training time."""
        del args, state, control, kwargs
        self._pace.pause()

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """One line for each evaluation."""
        del args, control, kwargs
        found = metrics or {}
        if "eval_loss" in found:
            step = f"step {state.global_step:>{len(str(state.max_steps))}}/{state.max_steps}"
            place = step if state.max_steps else "before training"
            line = f"{place}  held-out loss {found['eval_loss']:.4f}"
            if "eval_perplexity" in found:
                line += f"  perplexity {found['eval_perplexity']:,.2f}"
            if line != self._last_evaluation:  # the last step and the end are often the same
                self._screen.say(line)
            self._last_evaluation = line

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The bar stays on the screen, complete."""
        del args, state, control, kwargs
        self.close()

    def close(self) -> None:
        """Stop drawing; also after an exception, where no event comes."""
        if self._bar:
            self._bar.close()
            self._bar = None
