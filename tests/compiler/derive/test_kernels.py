"""Which kernels a plan gets: tables of hardware, model and settings against the solved values."""

from __future__ import annotations

import pytest

from llmforge.build.loss_kernels import FINISH
from llmforge.compiler.derive import kernels
from llmforge.compiler.rules import RULES

TINY = ("model=folder", "model.path=tiny")
LLAMA3 = ("model=llama3_8b",)
EIGHT = ("hardware=h200", "hardware.count=8", "launch=torchrun")


def loss_kernel(context) -> str:
    return context.spec.trainer.loss_kernel


@pytest.fixture
def liger_installed(solved, everything_installed):
    everything_installed["liger-kernel"] = "99.0"


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        (("hardware=cpu",), "full"),
        (("hardware=h200",), "full"),  # a vocabulary of 1,024
        ((*LLAMA3, "hardware=h200"), "chunked"),
        ((*LLAMA3, "hardware=h200", "trainer.label_smoothing=0.1"), "chunked"),
        ((*LLAMA3, "hardware=rtx4090", "lora=4bit_s", "quantization=4bit"), "chunked"),
        ((*LLAMA3, "hardware=cpu"), "chunked"),
        ((*LLAMA3, "hardware=h200", "trainer.loss_kernel=full"), "full"),
        # the head is in pieces
        ((*LLAMA3, *EIGHT, "fsdp=full_shard"), "full"),
        ((*LLAMA3, *EIGHT, "deepspeed=stage3"), "full"),
        ((*LLAMA3, *EIGHT, "deepspeed=stage2"), "chunked"),
    ],
)
def test_loss_kernel(options, kernel, solved, everything_installed):
    everything_installed.pop("liger-kernel", None)

    assert loss_kernel(solved(*options)) == kernel


@pytest.mark.parametrize(
    ("options", "kernel"),
    [
        ((*LLAMA3, "hardware=h200"), "liger"),
        ((*LLAMA3, "hardware=h200", "lora=small"), "liger"),
        ((*LLAMA3, "hardware=h200", "lora=small", "lora.targets=role:attention+head"), "chunked"),
        ((*LLAMA3, "hardware=t4", "precision=float16"), "chunked"),
        ((*LLAMA3, "hardware=cpu"), "chunked"),
        (("hardware=h200",), "full"),
    ],
)
def test_loss_kernel_with_liger_installed(options, kernel, solved, liger_installed):
    assert loss_kernel(solved(*options)) == kernel


def test_a_model_nobody_tried_keeps_its_whole_logits(solved):
    new = solved("hardware=h200", "model=hub", "model.id=acme/new")

    assert loss_kernel(new) == "full"


def test_smoothing_that_would_drop_a_term_chooses_chunks_also_on_a_cpu(unsolved, solved):
    context = solved("hardware=cpu", "trainer.label_smoothing=0.1", {"trainer.loss_kernel": "full"})
    assert kernels.dropped_term(context) is None
    context.facts.model_config["output_router_logits"] = True

    assert "experts" in str(kernels.dropped_term(context))
    assert kernels._leanest(context)[0] == "chunked"
    refused = next(rule for rule in RULES if rule.code == "LF333").check(context)
    assert [finding.hint for finding in refused] == ["trainer.loss_kernel=chunked"]


def test_smoothing_beside_adalora_chooses_chunks(solved):
    assert loss_kernel(solved("hardware=cpu", "lora=adalora")) == "full"
    smoothed = solved("hardware=cpu", "lora=adalora", "trainer.label_smoothing=0.1")

    assert loss_kernel(smoothed) == "chunked"
    codes = [found.code for rule in RULES for found in rule.check(smoothed) if found.is_error]
    assert codes == []


def test_families_are_those_of_the_builder():
    assert set(FINISH) == kernels.LEAN_FAMILIES
    scaled = {FINISH["cohere"], FINISH["granite"]}
    assert {family for family, finish in FINISH.items() if finish in scaled} == kernels.RESCALED


@pytest.mark.parametrize(
    ("options", "fused"),
    [((), True), (("optimizer.fused=false",), False)],
)
def test_fused_optimizer(options, fused, solved):
    assert solved("hardware=cpu", *options).spec.optimizer.fused is fused
