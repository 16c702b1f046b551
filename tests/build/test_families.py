"""Every family trains from a folder: all weights and adapters, float32 and bfloat16."""

from __future__ import annotations

import math
from pathlib import Path
from typing import get_args

import pytest
import torch

from llmforge.build.adapter import trainable_share
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.schema.model import Family
from llmforge.stages.prepare import prepare

FAMILIES = get_args(Family)


def attention(family: str) -> str:
    """PyTorch's fused one, where the family's class runs with it."""
    return "eager" if family in ("gemma2", "gptj", "gpt_neo") else "sdpa"


@pytest.fixture(scope="module")
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples are the same for every family: they share a tokenizer."""
    return tmp_path_factory.mktemp("cache")


@pytest.mark.parametrize("compute", ["float32", "bfloat16"])
@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("family", FAMILIES)
def test_two_steps(
    make_plan, settings, checkpoint, shared_cache, tmp_path, family, adapter, compute
):
    changes = settings.folder_model(checkpoint(family)) | {
        "model.attention": attention(family),
        "paths.cache": str(shared_cache),
        "precision.compute": compute,
    }
    if adapter == "lora":
        # what the compiler decides for a frozen base: held in the compute format
        changes |= {"lora": settings.LORA, "precision.weights": compute}
    plan = make_plan(changes)
    parts = build_parts(plan, prepare(plan))
    before = {name: weight.clone() for name, weight in parts.model.named_parameters()}
    trainer = build_trainer(plan, parts, tmp_path, [])
    result = trainer.train()

    assert result.global_step == 2
    assert math.isfinite(result.training_loss)
    assert 3 < result.training_loss < 8, "near ln(288) = 5.7, as an untrained model is"
    moved = {
        name
        for name, weight in parts.model.named_parameters()
        if not torch.equal(weight, before[name])
    }
    trainable = {name for name, weight in parts.model.named_parameters() if weight.requires_grad}
    assert moved <= trainable
    assert len(moved) > len(trainable) // 2 - 1
    if adapter == "lora":
        assert all("lora_" in name for name in trainable)
        assert all(
            weight.dtype == torch.float32
            for weight in parts.model.parameters()
            if weight.requires_grad
        )
        assert 0 < trainable_share(parts.model)["share"] < 0.5
        frozen = next(w for w in parts.model.parameters() if not w.requires_grad)
        assert frozen.dtype == getattr(torch, compute)
    else:
        assert trainable_share(parts.model)["share"] == 1.0


@pytest.mark.parametrize("family", FAMILIES)
def test_from_scratch_the_seed_decides_the_weights(make_plan, settings, shared_cache, family):
    def weights(seed: int, dtype: str = "float32") -> dict[str, torch.Tensor]:
        plan = make_plan(
            {
                "paths.cache": str(shared_cache),
                "model.family": family,
                "model.attention": attention(family),
                "seed": seed,
                "precision.weights": dtype,
            }
        )
        return build_parts(plan, prepare(plan)).model.state_dict()

    one, same, other, half = weights(1), weights(1), weights(2), weights(1, "bfloat16")
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert any(not torch.equal(one[name], other[name]) for name in one)
    for name in one:
        if one[name].is_floating_point():
            assert torch.equal(one[name].bfloat16(), half[name].bfloat16()), name


@pytest.mark.parametrize("family", FAMILIES)
def test_left_and_right_padding_give_the_same_loss(
    make_plan, settings, checkpoint, shared_cache, family
):
    def loss(side: str) -> tuple[float, bool]:
        plan = make_plan(
            settings.folder_model(checkpoint(family))
            | {
                "model.attention": attention(family),
                "paths.cache": str(shared_cache),
                "tokenizer.padding_side": side,
            }
        )
        parts = build_parts(plan, prepare(plan))
        samples = sorted(parts.train, key=lambda sample: sample["length"])
        batch = parts.collator([samples[0], samples[-1]])
        assert not batch["attention_mask"].all(), "something is padded"
        loss = parts.model(**batch).loss
        loss.backward()
        grads = [w.grad for w in parts.model.parameters() if w.grad is not None]
        return loss.item(), all(torch.isfinite(grad).all() for grad in grads)

    (left, left_finite), (right, right_finite) = loss("left"), loss("right")
    assert left == pytest.approx(right, abs=1e-5)
    assert left_finite
    assert right_finite
