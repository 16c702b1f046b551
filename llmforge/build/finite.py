"""A step that must not be taken: refused on all processes, with the rows that spoiled it.

In: losses and gradient norm of an optimizer step, its micro batches. Out: `FiniteSteps`, the part
of a trainer that raises `NonFiniteLoss` before the step is taken. When it asks is `trainer.py`'s
affair, what it finds out `culprits.py`'s.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from accelerate.utils import gather_object

from llmforge.build.culprits import Culprit, Measure, Numbered, StepMemory
from llmforge.build.errors import NonFiniteLoss
from llmforge.build.loss_kernels import LeanLoss
from llmforge.build.token_count import CountedTokens


def is_finite(value: Any) -> bool:
    """Waits for the device."""
    return bool(torch.isfinite(torch.as_tensor(value)).all())


class FiniteSteps(CountedTokens):
    """A Trainer that knows what its step is made of."""

    data_collator: Any
    lean: LeanLoss | None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._losses: list[torch.Tensor] = []
        """Of the micro batches of this step so far, on the device."""
        self._step = StepMemory()

    def _check_finite(self, what: str, value: Any) -> None:
        """Of this process alone: the others learn of it when it is gone."""
        if not is_finite(value):
            step = self.state.global_step + 1
            raise NonFiniteLoss(
                step, f"{what} is {float(value)}", self._culprits([*self._losses, value])
            )

    def _anywhere(self, here: bool) -> bool:
        """Is it so on any process? Once a step, where the device is waited for anyway."""
        if self.args.world_size == 1:
            return here
        flag = torch.tensor(int(here), device=self.args.device)
        torch.distributed.all_reduce(flag, torch.distributed.ReduceOp.MAX)
        return bool(flag.item())

    def _refuse_step(self, what: str, losses: list[torch.Tensor], norm: Any = None) -> None:
        """Called by all processes together.

        Raises:
            NonFiniteLoss: on every process, with what all of them found.
        """
        found = self._culprits(losses, by_gradient=norm is not None)
        value = float(torch.stack(losses).sum() if norm is None else norm)
        if self.args.world_size > 1:
            found = gather_object(found)
            told = [one for one in gather_object([value]) if not math.isfinite(one)]
            value = told[0] if told else value
        raise NonFiniteLoss(self.state.global_step + 1, f"{what} is {value}", found)

    def _culprits(self, losses: list[Any], by_gradient: bool = False) -> list[Culprit]:
        sharded = self.is_fsdp_enabled or self.is_deepspeed_enabled
        model = None if sharded else self.accelerator.unwrap_model(self.model)
        measure = Measure(
            model,
            self.lean,
            self._prepare_inputs,
            self.compute_loss_context_manager,
            self.compute_loss,
        )
        values = [float(loss) for loss in losses]
        return self._step.culprits(self.args.process_index, values, measure, by_gradient)

    # which rows a step is made of

    def noted(self, collate: Any) -> Any:
        """Batches say which rows are in them, too."""
        return super().noted(Numbered(collate))

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """The micro batches of a step; which rows are in them is remembered and taken out."""
        batches, items = super().get_batch_samples(*args, **kwargs)
        self._step.begin(batches)
        return batches, items
