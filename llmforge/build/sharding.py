"""FSDP2 as the plan has it, and checkpoints of what it shards.

In: training arguments with `fsdp`, a plan's `lowered.fsdp`. Out: `ShardedWeights`, the part of a
trainer that sees to it that weights are sharded (also on CPUs, where accelerate would train by
plain data parallelism without a word), and that writes and reads checkpoints: whole weights as any
engine reads them, the adapter alone under LoRA, and the optimizer's state in the pieces that each
process holds. What is read is dealt out anew, so that another number of processes can go on.

DeepSpeed writes and reads its own state. Seals and names are `saving.py`'s.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import load_file
from torch.distributed import checkpoint as pieces
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.distributed.tensor import DTensor
from transformers.trainer import SCHEDULER_NAME

from llmforge.build.pieces import load_pieces
from llmforge.build.saving import SealedSaves
from llmforge.plan import Plan

OPTIMIZER = "optimizer_shards"
"""Folder of a checkpoint with the optimizer's state, one file for each process."""


class NotSharded(RuntimeError):
    """The plan asks for shards, and the engine left weights whole."""


def announce(plan: Plan) -> None:
    """What the libraries read of FSDP from the environment, before the process group is made.

    With shards in CPU memory, norms and flags are reduced there too, which NCCL cannot do.
    """
    if plan.lowered.get("fsdp") is None:
        return
    asked = plan.lowered["training_arguments"]["fsdp_config"]
    os.environ["ACCELERATE_USE_FSDP"] = "true"
    os.environ["FSDP_OFFLOAD_PARAMS"] = str(bool(asked["cpu_offload"])).lower()


class ShardedWeights(SealedSaves):
    """A Trainer whose FSDP shards are what the plan says."""

    is_fsdp_enabled: bool

    def create_accelerator_and_postprocess(self) -> None:
        """The library's accelerator; where it ignored FSDP, told again."""
        super().create_accelerator_and_postprocess()
        asked = self.args.fsdp_plugin_args
        if asked is None or self.is_fsdp_enabled:
            return
        state = self.accelerator.state
        state.fsdp_plugin = FullyShardedDataParallelPlugin(**asked)
        if state.device.type == "cpu":
            # shards lie in CPU memory anyway, and no device could copy from page-locked memory
            state.fsdp_plugin.cpu_offload = None
        state.distributed_type = DistributedType.FSDP
        # each later look at the state starts from this one
        PartialState().distributed_type = DistributedType.FSDP
        if state.mixed_precision != "no":
            state.fsdp_plugin.set_mixed_precision(state.mixed_precision)
        self.is_fsdp_enabled = True

    def use_formats(self, lowered: dict[str, Any] | None) -> None:
        """Formats of gathered weights and of summed gradients."""
        if lowered is None or lowered["param_dtype"] == "float32":
            return
        compute = getattr(torch, lowered["param_dtype"])
        self.accelerator.state.fsdp_plugin.mixed_precision_policy = MixedPrecisionPolicy(
            param_dtype=compute,
            reduce_dtype=getattr(torch, lowered["reduce_dtype"]),
            output_dtype=compute,
        )

    def _prepare_for_training(self, *args: Any, **kwargs: Any) -> Any:
        prepared = super()._prepare_for_training(*args, **kwargs)
        if self.is_fsdp_enabled:
            check_sharded(self.model)
        return prepared

    # checkpoints

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if state_dict:
            state_dict = without_ties(self.accelerator.unwrap_model(self.model), state_dict)
        super()._save(output_dir, state_dict)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        if not self.is_fsdp_enabled:
            super()._save_optimizer_and_scheduler(output_dir)
            return
        # the library would write all weights a second time, pickled
        state = get_optimizer_state_dict(self.model, _plain(self.optimizer))
        pieces.save({"optimizer": state}, checkpoint_id=Path(output_dir) / OPTIMIZER)
        if self.args.should_save:
            torch.save(self.lr_scheduler.state_dict(), Path(output_dir) / SCHEDULER_NAME)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if checkpoint is None or not self.is_fsdp_enabled:
            super()._load_optimizer_and_scheduler(checkpoint)
            return
        optimizer = _plain(self.optimizer)
        state = {"optimizer": get_optimizer_state_dict(self.model, optimizer)}
        load_pieces(state, Path(checkpoint) / OPTIMIZER)
        set_optimizer_state_dict(self.model, optimizer, state["optimizer"])
        schedule = torch.load(Path(checkpoint) / SCHEDULER_NAME, weights_only=True)
        self.lr_scheduler.load_state_dict(schedule)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        if self.is_fsdp_enabled:
            self._deal_out(Path(resume_from_checkpoint))
        else:
            super()._load_from_checkpoint(resume_from_checkpoint, model)

    def _load_best_model(self) -> None:
        if self.is_fsdp_enabled:
            self._deal_out(Path(str(self.state.best_model_checkpoint)))
        else:
            super()._load_best_model()

    def _deal_out(self, folder: Path) -> None:
        """Weights of a checkpoint: read by the main process, each process gets its pieces."""
        state = {}
        if self.is_world_process_zero():
            state = _read(folder, self.model)
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True, strict=False)
        set_model_state_dict(self.model, state, options=options)


def gathered(trainer: Any) -> dict[str, Any]:
    """Whole weights of a sharded model, on the main process; every process must ask."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped) or {}
    return without_ties(trainer.accelerator.unwrap_model(trainer.model), state)


def without_ties(model: Any, state: dict[str, Any]) -> dict[str, Any]:
    """The state with tied weights under one name: gathered, they are copies of each other."""
    adapted = isinstance(model, PeftModel)
    prefix = "base_model.model." if adapted else ""
    base = model.get_base_model() if adapted else model
    ties = getattr(base, "all_tied_weights_keys", None) or {}
    twice = {prefix + name for name, source in ties.items() if prefix + source in state}
    return {name: weight for name, weight in state.items() if name not in twice}


def check_sharded(model: torch.nn.Module) -> None:
    """Raises `NotSharded` when a trained weight is whole on this process."""
    whole = [
        name
        for name, weight in model.named_parameters()
        if weight.requires_grad and not isinstance(weight, DTensor)
    ]
    if whole:
        raise NotSharded(f"FSDP2 left {len(whole)} trained weights whole, such as {whole[0]}")


def _plain(optimizer: Any) -> Any:
    """The optimizer inside accelerate's wrapper."""
    return getattr(optimizer, "optimizer", optimizer)


def _read(folder: Path, model: Any) -> dict[str, torch.Tensor]:
    """Weights of a folder under the model's own names."""
    adapter = folder / "adapter_model.safetensors"
    if not adapter.is_file():
        found: dict[str, torch.Tensor] = {}
        for file in sorted(folder.glob("model*.safetensors")):
            found |= load_file(file)
        return found
    stored, names = load_file(adapter), saved_names(model)
    return {names[name]: weight for name, weight in stored.items()}


def saved_names(model: PeftModel) -> dict[str, str]:
    """Name of each adapter weight in a saved adapter -> its name in the model."""
    names = [name.replace("_checkpoint_wrapped_module.", "") for name in model.state_dict()]
    # PEFT renames by names alone, so it can be asked with numbers in the place of weights
    numbered = {name: torch.tensor(index) for index, name in enumerate(names)}
    saved = get_peft_model_state_dict(model, state_dict=numbered, save_embedding_layers=False)
    return {name: names[int(index)] for name, index in saved.items()}
