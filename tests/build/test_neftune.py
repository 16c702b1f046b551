"""NEFTune: noise on the embeddings in training alone, under adapters and every loss as well."""

from __future__ import annotations

import contextlib
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.trainer_utils import IntervalStrategy

from llmforge.build.parts import build_parts
from llmforge.build.trainer import ForgeTrainer, build_trainer
from llmforge.stages.prepare import prepare

UNEVEN = [
    {
        "messages": [
            {"role": "user", "content": f"{number}?"},
            {"role": "assistant", "content": "yes " * (1 + number % 5 * 2)},
        ]
    }
    for number in range(12)
]


class Hook:
    """A hook that `contextlib.closing` takes off."""

    def __init__(self, handle: Any) -> None:
        self.close = handle.remove


class TestNeftune:
    """Noise on the embeddings (Jain et al. 2023): in training alone, under adapters too."""

    ALPHA = 5.0

    def noisy(
        self, make_plan: Any, tmp_path: Path, alpha: float | None, **changes: Any
    ) -> ForgeTrainer:
        plan = make_plan(changes, rows=UNEVEN)
        plan.lowered["training_arguments"]["neftune_noise_alpha"] = alpha
        return build_trainer(plan, build_parts(plan, prepare(plan)), tmp_path / "out", [])

    def embedded(self, trainer: ForgeTrainer) -> dict[bool, list[torch.Tensor]]:
        """How far each output of the embedding is from its rows: by training or evaluation."""
        base = getattr(trainer.model, "get_base_model", lambda: trainer.model)()
        embedding = base.get_input_embeddings()
        found: dict[bool, list[torch.Tensor]] = {True: [], False: []}

        def look(module: Any, args: Any, output: torch.Tensor) -> None:
            rows = torch.nn.functional.embedding(args[0], embedding.weight)
            found[module.training].append((output - rows).detach())

        step = trainer.training_step

        def training_step(*args: Any, **kwargs: Any) -> Any:
            # behind the noise, which training puts on only when it begins
            with contextlib.closing(Hook(embedding.register_forward_hook(look))):
                return step(*args, **kwargs)

        trainer.training_step = training_step
        measure = trainer._measure

        def measured(*args: Any) -> Any:
            with contextlib.closing(Hook(embedding.register_forward_hook(look))):
                return measure(*args)

        trainer._measure = measured
        return found

    @pytest.mark.parametrize("adapter", [False, True])
    @pytest.mark.parametrize("smoothing", [0.0, 0.1])
    @pytest.mark.parametrize("kernel", ["full", "chunked"])
    def test_noise_in_training_none_in_evaluation(
        self, make_plan, settings, tmp_path, adapter, smoothing, kernel
    ):
        changes = {"trainer.label_smoothing": smoothing, "trainer.loss_kernel": kernel}
        if adapter:
            changes["lora"] = settings.LORA
        trainer = self.noisy(make_plan, tmp_path, self.ALPHA, **changes)
        trainer.args.eval_strategy = IntervalStrategy.STEPS
        trainer.state.eval_steps = trainer.args.eval_steps = 1
        found = self.embedded(trainer)
        trainer.train()
        assert len(found[True]) == 2, "two steps"
        for noise in found[True]:
            _, length, width = noise.shape
            bound = self.ALPHA / math.sqrt(length * width)
            assert 0.9 * bound < noise.abs().max() <= bound * 1.0001
            assert noise.std() == pytest.approx(bound / math.sqrt(3), rel=0.1)
        assert found[False], "evaluated during training"
        assert all(noise.abs().max() == 0 for noise in found[False])

    def test_none_without(self, make_plan, tmp_path):
        trainer = self.noisy(make_plan, tmp_path, None)
        found = self.embedded(trainer)
        trainer.train()
        assert all(noise.abs().max() == 0 for noise in found[True])

    def test_it_is_gone_when_training_ends(self, make_plan, tmp_path):
        trainer = self.noisy(make_plan, tmp_path, self.ALPHA)
        trainer.train()
        embedding = trainer.model.get_input_embeddings()
        assert not embedding._forward_hooks
        trainer.model.train()
        ids = torch.tensor([[5, 6, 7]])
        assert torch.equal(embedding(ids), embedding.weight[ids])
