"""What happens after an evaluation and after a save, beside the training itself.

In: two functions. Out: a callback that calls them. Rank 0 alone has one. What they do must not
raise: training does not depend on it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class AfterCallback(TrainerCallback):  # type: ignore[misc]
    """Tells that numbers of an evaluation are recorded, and that a checkpoint is whole."""

    def __init__(
        self, evaluated: Callable[[], None], saved: Callable[[int], None] | None = None
    ) -> None:
        self._evaluated, self._saved = evaluated, saved

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The numbers are in the journal: the log line comes first."""
        del args, control, kwargs
        if state.global_step:  # the untrained model is measured before there is anything to show
            self._evaluated()

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The checkpoint has its name: the Trainer saves, then says so."""
        del args, control, kwargs
        if self._saved:
            self._saved(state.global_step)
