"""A dry save and reload before the first step: what cannot be kept must not be trained.

In: a plan and a trainer whose model is ready to train. Out: nothing that stays; a word on size and
time, or `SaveFailed`. The final model is written as it will be at the end, base and tokenizer
included, read back and compared; so an unwritable folder, a full disk or a model that cannot be
saved is found within seconds and not after the last step.

Optimizer state is left out: it does not exist before the first step.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig
from safetensors import safe_open
from transformers import (
    AutoConfig,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from llmforge.build.load import ADAPTER_CONFIG, flush_tree, is_adapter, write_model
from llmforge.build.saving import SaveFailed
from llmforge.build.tokenizer import open_tokenizer
from llmforge.build.trainer import ForgeTrainer
from llmforge.plan import Plan


class Rehearsal(TrainerCallback):  # type: ignore[misc]
    """Saves and reads back at step 0, on every rank, once engines have taken the model over."""

    def __init__(self, plan: Plan, folder: Path, final: Path, say: Callable[[str], None]) -> None:
        """
        Args:
            plan: what runs.
            folder: written to and removed again; on the file system of the run folder.
            final: where the final model will lie.
            say: takes one line.
        """
        self._plan, self._folder, self._final, self._say = plan, folder, final, say
        self.trainer: ForgeTrainer | None = None
        """Set once the trainer is built."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Runs before the first step only: what goes on from a checkpoint was saved before.

        Raises:
            SaveFailed: on the main process.
        """
        del args, control, kwargs
        if self.trainer is not None and state.global_step == 0:
            rehearse(self._plan, self.trainer, self._folder, self._final, self._say)
            self.trainer.accelerator.wait_for_everyone()


def rehearse(
    plan: Plan, trainer: ForgeTrainer, folder: Path, final: Path, say: Callable[[str], None]
) -> None:
    """Write the model to `folder`, read it back, remove it.

    Raises:
        SaveFailed: it could not be written, or what was read is not what was written.
    """
    began = time.perf_counter()
    try:
        if trainer.is_world_process_zero():  # the others would take away what it is writing
            shutil.rmtree(folder, ignore_errors=True)
        state = write_model(plan, trainer, folder, final)
        if not trainer.is_world_process_zero():
            return
        flush_tree(folder)
        compare(folder, {} if is_adapter(folder) else trained_weights(trainer, state))
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except Exception as error:
        raise SaveFailed("the model could not be saved before the first step", error) from error
    finally:
        if trainer.is_world_process_zero():
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.perf_counter() - began
    say(f"the model can be saved: {size / 1e6:,.1f} MB written and read back in {seconds:.1f} s")


def trained_weights(trainer: ForgeTrainer, state: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Weights by name as they are held; of a sharded model the gathered ones."""
    if state is not None:
        return state
    found: Mapping[str, Any] = trainer.accelerator.unwrap_model(trainer.model).state_dict()
    return found


def compare(folder: Path, held: Mapping[str, Any]) -> None:
    """Read every tensor, tokenizer and config of a saved model.

    Args:
        folder: just written.
        held: weights to compare with, where a name is known; of an adapter nothing, since it may
            be saved in another form than it is trained in.

    Raises:
        ValueError: no weights, or others than those held.
        SafetensorError, OSError: something cannot be read.
    """
    files = sorted(folder.rglob("*.safetensors"))
    if not files:
        raise ValueError(f"no weights were written to {folder}")
    for file in files:
        with safe_open(file, framework="pt") as stream:
            for name in stream.keys():  # noqa: SIM118 - the library's object has no iterator
                read = stream.get_tensor(name)
                if name in held and not _equal(read, held[name]):
                    raise ValueError(f"{name} in {file.name} is not what the model holds")
    open_tokenizer(folder)
    if (folder / ADAPTER_CONFIG).is_file():
        PeftConfig.from_pretrained(str(folder))
    else:
        AutoConfig.from_pretrained(str(folder), trust_remote_code=False)


def _equal(read: torch.Tensor, held: torch.Tensor) -> bool:
    """The same bits; NaN is equal to itself here."""
    if read.shape != held.shape or read.dtype != held.dtype:
        return False
    return bool(torch.equal(_bits(read), _bits(held)))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().to("cpu").contiguous().reshape(-1).view(torch.uint8)
