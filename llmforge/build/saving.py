"""Saving while training: the library's files, in a place where half of them do no harm.

In: a `Keeper` (`run/checkpoints.py`), which knows places, seals and pruning. Out:
`SealedSaves`, the part of a trainer that writes its checkpoints through it. Works for one process
and for several, and for engines that write folders of their own (DeepSpeed, FSDP): nobody goes on
before all have written and the checkpoint has its name.

What stands in a checkpoint is the library's affair but for the size of weight files and
`generation_config.json` beside an adapter; so is reading it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from peft import PeftModel
from safetensors import SafetensorError
from transformers import PreTrainedModel, Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME

from llmforge.build.early_stopping import reported_as
from llmforge.build.errors import MetricMissing


class Keeper(Protocol):
    """Where checkpoints go; see `run/checkpoints.py`."""

    max_shard_size: str
    """Largest weight file."""

    def final(self, step: int) -> Path:
        """The folder of a whole checkpoint."""

    def staging(self, step: int) -> Path:
        """The folder in which `checkpoint-N` is written."""

    def begin(self, step: int) -> None:
        """Make the staging folder, empty."""

    def finish(self, step: int, best: int | None = None) -> None:
        """Seal, rename, prune."""

    def newest(self, step: int) -> str | None:
        """The file that was written to last; None while there is none."""

    def abandon(self, step: int) -> None:
        """Remove the staging folder."""


class SaveFailed(RuntimeError):
    """A checkpoint could not be written, or a saved model not be read back."""

    def __init__(self, what: str, error: BaseException) -> None:
        super().__init__(f"{what}: {type(error).__name__}: {error}".rstrip(": "))


class SealedSaves(Trainer):  # type: ignore[misc]
    """A Trainer whose checkpoints appear whole or not at all, once it has a keeper."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.keeper: Keeper | None = None
        """None leaves saving to the library, in place and unsealed."""
        self._staging: Path | None = None

    def keep_with(self, keeper: Keeper) -> None:
        """Save through `keeper` from now on; the library does not prune any more.

        With a limit of one, the library would remove the newest checkpoint after training, and
        leave only the best.
        """
        self.keeper = keeper
        self.args.save_total_limit = None

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """The library's files; weights in pieces of the size that was asked for, and beside an
        adapter, too, how its model generates."""
        model = self.accelerator.unwrap_model(self.model)
        if self.keeper is None:
            super()._save(output_dir, state_dict)
            return
        with _in_shards(model, self.keeper.max_shard_size):
            super()._save(output_dir, state_dict)
        generation = getattr(model, "generation_config", None)
        if isinstance(model, PeftModel) and generation is not None and self.args.should_save:
            generation.save_pretrained(output_dir)

    def _determine_best_metric(self, metrics: dict[str, float], trial: Any) -> bool:
        """The library's comparison; a new best is saved at once.

        Saves may be rarer than evaluations: then the library remembers a step that is not there.

        Raises:
            MetricMissing: the evaluation did not report the metric that counts.
        """
        asked = self.args.metric_for_best_model
        if asked is not None and reported_as(asked) not in metrics:
            raise MetricMissing(asked, metrics)
        found = bool(super()._determine_best_metric(metrics, trial))
        if found and self.args.load_best_model_at_end:
            self.control.should_save = True
        return found

    def _get_output_dir(self, trial: Any) -> str:
        return str(self._staging) if self._staging else str(super()._get_output_dir(trial))

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The library's checkpoint, sealed.

        Raises:
            SaveFailed: it could not be written; the checkpoints before it are as they were.
        """
        if self.keeper is None:
            super()._save_checkpoint(model, trial)
            return
        step, main = int(self.state.global_step), self.is_world_process_zero()
        try:
            self._save_through(
                self.keeper, step, lambda: super(SealedSaves, self)._save_checkpoint(model, trial)
            )
        except Exception as error:
            what = f"the checkpoint of step {step} could not be written"
            if main:
                what += _where(error, self.keeper.newest(step))
                self.keeper.abandon(step)
            raise SaveFailed(what, error) from error

    def _save_through(self, keeper: Keeper, step: int, write: Callable[[], None]) -> None:
        main = self.is_world_process_zero()
        if main:
            keeper.begin(step)
        self.accelerator.wait_for_everyone()
        self._staging = keeper.staging(step)
        try:
            write()
        finally:
            self._staging = None
        best = self._name_best(keeper, step)
        self.accelerator.wait_for_everyone()
        if main:
            written = keeper.staging(step) / keeper.final(step).name
            # the library wrote it while the best checkpoint still had its other name
            self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            # a pickle that nobody reads: the plan stands beside the weights
            (written / TRAINING_ARGS_NAME).unlink(missing_ok=True)
            keeper.finish(step, best)
        self.accelerator.wait_for_everyone()

    def _name_best(self, keeper: Keeper, step: int) -> int | None:
        """Point the state at the best checkpoint's final name, on every rank.

        Returns:
            The step of the best checkpoint there is.
        """
        best = self.state.best_global_step
        if best and (best == step or keeper.final(best).is_dir()):
            self.state.best_model_checkpoint = str(keeper.final(best))
        named = self.state.best_model_checkpoint
        number = Path(named).name.rpartition("-")[2] if named else ""
        return int(number) if number.isdecimal() else None


def _where(error: BaseException, newest: str | None) -> str:
    """Which file it was about, where the error itself does not tell."""
    if isinstance(error, SafetensorError):
        return " (its weights)"  # written under another name, which is gone again
    named = getattr(error, "filename", None)
    return "" if named or newest is None else f" (last at {newest})"


@contextmanager
def _in_shards(model: Any, size: str) -> Iterator[None]:
    """Inside, the model writes files of at most `size`; the library's call does not say so.

    An adapter is written as one file, whatever its size.
    """
    if not isinstance(model, PreTrainedModel):
        yield
        return
    model.save_pretrained = partial(model.save_pretrained, max_shard_size=size)
    try:
        yield
    finally:
        del model.save_pretrained  # the class's own again
