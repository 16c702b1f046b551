"""Stopping the training loop on request, and going on as if nothing had happened.

In: a stop flag, the Trainer's events. Out: a loop that ends within one step (or one micro-batch, or
one evaluation batch) of a request, with a checkpoint from which the run goes on bit for bit.

Signals, exit codes and statuses are the runner's business.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler


class Stop(Protocol):
    """Was the run asked to stop?"""

    def __bool__(self) -> bool:
        """Yes or no, cheaply: asked once a step."""

    def request(self, reason: str) -> None:
        """Ask for it."""

    def check(self) -> None:
        """Raise when it was asked for."""


class StopCallback(TrainerCallback):  # type: ignore[misc]
    """Ends the training within a step when a stop was asked for, its state saved.

    A step is dropped half-way when it accumulates several micro-batches: the random state is put
    back to where the step began, so that the resumed run takes it again, bit for bit.
    """

    def __init__(self, stop: Stop) -> None:
        self._stop = stop
        self._group: Any = None
        self._border: Callable[[], None] = lambda: None
        """Puts the random state back to the last step border."""
        self._at_epoch_start = False
        self._saved_at: int | None = None
        """Step of the newest checkpoint on disk."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Several ranks agree on the step by a group of their own, on the CPU."""
        del control, kwargs
        if args.world_size > 1:
            self._group = torch.distributed.new_group(backend="gloo")
        # the checkpoint a resumed run came from is there already, and nothing is before step 0
        self._saved_at = state.global_step

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An epoch's first step has its border here: a resumed epoch draws its order once more."""
        del state, control, kwargs
        if args.gradient_accumulation_steps > 1:
            self._border, self._at_epoch_start = remember_random_state(), True

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Remember the random state where a step may have to be dropped."""
        del state, control, kwargs
        if args.gradient_accumulation_steps > 1:
            if not self._at_epoch_start:
                self._border = remember_random_state()
            self._at_epoch_start = False

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Inside an accumulated step."""
        del args, kwargs
        if self._agreed():
            self._border()
            self._end(state, control)
            control.should_log = False  # the loss of the dropped part would be counted

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """After an optimizer step. A run that is through has nothing left to stop."""
        del args, kwargs
        if state.global_step < state.max_steps and self._agreed():
            self._end(state, control)

    def _end(self, state: TrainerState, control: TrainerControl) -> None:
        control.should_training_stop = True
        control.should_log = True  # the losses since the last line would be lost otherwise
        control.should_evaluate = False  # resuming makes up for it: see EvaluationApart
        control.should_save = self._saved_at != state.global_step

    def on_save(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The state of this step is on disk."""
        del args, control, kwargs
        self._saved_at = state.global_step

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """The Trainer ends its epoch after a stop, too; nothing is due then that was not before."""
        del args, kwargs
        if self._stop and control.should_training_stop and state.global_step < state.max_steps:
            control.should_evaluate = False
            control.should_save = self._saved_at != state.global_step

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Inside an evaluation; the runner saves what it catches here."""
        del args, state, control, kwargs
        if self._agreed():
            self._stop.check()

    def _agreed(self) -> bool:
        """Was any rank asked? All ranks get the same answer for the same step."""
        asked = bool(self._stop)
        if self._group is not None:
            flag = torch.tensor(int(asked))
            torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX, group=self._group)
            if flag.item() and not asked:
                self._stop.request("another rank")
            asked = bool(flag.item())
        return asked


class EvaluationApart(TrainerCallback):  # type: ignore[misc]
    """Evaluations leave no trace in the weights, and none is lost to a stop.

    Setting up an evaluation draws from the global generator; dropout would differ afterwards. The
    random state is put back, so how often a run is evaluated, or whether a stop skipped one, does
    not change what it learns.
    """

    def __init__(self) -> None:
        self.trainer: Any = None
        """Set once the trainer is built."""
        self._put_back: Callable[[], None] = lambda: None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """An evaluation is due: the default flow, which decides that, runs first."""
        del args, state, kwargs
        if control.should_evaluate:
            self._put_back = remember_random_state()

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Over."""
        del args, state, control, kwargs
        self.end()

    def end(self) -> None:
        """Put the random state back to before the evaluation; also after an exception in it."""
        self._put_back()
        self._put_back = lambda: None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Make up for the evaluation that a stop skipped at the very step it stopped at.

        Without it the choice of the best checkpoint would depend on when a run was interrupted.
        The checkpoint's random state is loaded after this.
        """
        del control, kwargs
        if self.trainer is None or args.eval_strategy != "steps" or not state.global_step:
            return
        done = any(
            entry.get("step") == state.global_step and "eval_loss" in entry
            for entry in state.log_history
        )
        due = state.global_step % state.eval_steps == 0 and args.eval_delay <= state.global_step
        if due and not done:
            metrics = self.trainer.evaluate()
            self.trainer._determine_best_metric(metrics=metrics, trial=None)  # noqa: SLF001 - the Trainer's own step after an evaluation


class EpochOrder(TrainerCallback):  # type: ignore[misc]
    """The order of an epoch's samples follows from the seed and the epoch's number alone.

    The Trainer's sampler by length draws the order from the global generator when the epoch begins;
    a run resumed inside the epoch would draw another one, and see some samples twice and others
    never. (Its random sampler has a generator of its own already.)
    """

    def __init__(self) -> None:
        self._generator: torch.Generator | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give the sampler a generator of its own."""
        del args, state, control
        sampler = kwargs.get("train_dataloader")
        while sampler is not None and not isinstance(sampler, LengthGroupedSampler):
            inner = getattr(sampler, "batch_sampler", None)
            sampler = inner if inner is not None else getattr(sampler, "sampler", None)
        if sampler is not None:
            self._generator = sampler.generator = torch.Generator()

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs before the epoch's order is drawn, in a resumed epoch as well."""
        del control, kwargs
        if self._generator is not None:
            seed = args.data_seed if args.data_seed is not None else args.seed
            self._generator.manual_seed(seed + int(state.epoch or 0))


def remember_random_state() -> Callable[[], None]:
    """Take the state of every generator; calling what is returned puts it back."""
    python, array, cpu = random.getstate(), np.random.get_state(), torch.get_rng_state()
    devices = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []

    def put_back() -> None:
        random.setstate(python)
        np.random.set_state(array)
        torch.set_rng_state(cpu)
        if devices:
            torch.cuda.set_rng_state_all(devices)

    return put_back
