"""Held-out loss without a Trainer: exact sums, whatever the batch, with or without whole logits."""

from __future__ import annotations

import math

import pytest
import torch

from llmforge.build import loss, loss_kernels
from llmforge.build.loss import HeldOut, held_out_loss, measured, token_nll
from llmforge.build.loss_kernels import LeanLoss
from llmforge.build.parts import build_parts
from llmforge.stages.prepare import prepare


@pytest.fixture
def parts(make_plan):
    plan = make_plan({"data.eval_fraction": 0.5})
    return build_parts(plan, prepare(plan))


def test_the_sums_are_those_of_log_softmax():
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 7)
    labels = torch.tensor([[1, 2, -100, 3], [-100, -100, -100, 5]])
    log_p = logits.log_softmax(-1)

    found = token_nll(logits, labels)

    assert found[0, 0].item() == pytest.approx(-(log_p[0, 0, 2] + log_p[0, 2, 3]).item(), rel=1e-6)
    assert found[1, 0].item() == pytest.approx(-log_p[1, 2, 5].item(), rel=1e-6)
    assert found[:, 1].tolist() == [2, 1]


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_no_batch_size_changes_the_figure(parts, batch):
    one = held_out_loss(parts.model, parts.evaluation, parts.collator, 8)
    found = held_out_loss(parts.model, parts.evaluation, parts.collator, batch)

    assert found["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-6)
    assert found["eval_tokens"] == one["eval_tokens"]
    assert found["eval_perplexity"] == pytest.approx(math.exp(found["eval_loss"]))


def test_a_family_that_is_known_is_measured_without_whole_logits(parts, monkeypatch):
    monkeypatch.setattr(loss_kernels, "CHUNK_BYTES", 0)
    monkeypatch.setattr(loss_kernels, "LEAST_TOKENS", 3)
    widest = []
    forward = parts.model.lm_head.forward
    monkeypatch.setattr(
        parts.model.lm_head,
        "forward",
        lambda hidden: widest.append(hidden.shape[:-1].numel()) or forward(hidden),
    )
    lean = held_out_loss(parts.model, parts.evaluation, parts.collator, 4)
    assert max(widest) == 3

    monkeypatch.setattr(loss, "FINISH", {})  # as if nobody had tried the family
    widest.clear()
    whole = held_out_loss(parts.model, parts.evaluation, parts.collator, 4)
    assert max(widest) > 3
    assert lean["eval_loss"] == pytest.approx(whole["eval_loss"], rel=1e-6)
    assert lean["eval_tokens"] == whole["eval_tokens"]


def test_bfloat16_is_measured_under_autocast(parts):
    full = held_out_loss(parts.model, parts.evaluation, parts.collator, 4)
    half = held_out_loss(parts.model, parts.evaluation, parts.collator, 4, compute="bfloat16")

    assert half["eval_loss"] != full["eval_loss"]
    assert half["eval_loss"] == pytest.approx(full["eval_loss"], rel=2e-2)


def test_measured_is_one_number_both_ways(parts):
    inputs = parts.collator([parts.evaluation[i] for i in range(3)])
    labels = inputs.pop("labels")
    with torch.no_grad():
        whole = measured(parts.model, inputs, labels, None)
        lean = measured(parts.model, inputs, labels, LeanLoss(parts.model, "chunked"))

    torch.testing.assert_close(whole, lean, rtol=1e-6, atol=1e-6)


def test_sets_are_told_apart():
    held_out = HeldOut(["easy", "hard"])
    held_out.add(torch.tensor([[2.0, 1.0], [9.0, 3.0]]).double(), torch.tensor([0, 1]))

    found = held_out.metrics()

    assert found["eval_easy_loss"] == 2
    assert found["eval_hard_loss"] == 3
    assert found["eval_loss"] == 11 / 4
