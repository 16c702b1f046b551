"""What follows from the machine: tables of hardware, adapter and base against the solved values."""

from __future__ import annotations

import pytest

from llmforge.compiler.context import Facts
from llmforge.compiler.derive.machine import derive_attention, probe_machine
from llmforge.origins import Origins

SCRATCH, TINY = (), ("model=folder", "model.path=tiny")


@pytest.mark.parametrize(
    ("hardware", "options", "compute", "weights"),
    [
        # trained weights keep float32 masters
        ("cpu", SCRATCH, "float32", "float32"),
        ("t4", SCRATCH, "float32", "float32"),
        ("a100_80gb", SCRATCH, "bfloat16", "float32"),
        ("h200", SCRATCH, "bfloat16", "float32"),
        # a frozen base is held in the compute format
        ("cpu", (*TINY, "lora=small"), "float32", "float32"),
        ("t4", (*TINY, "lora=small"), "float32", "float32"),
        ("rtx4090", (*TINY, "lora=small"), "bfloat16", "bfloat16"),
        ("h200", (*TINY, "lora=small", "quantization=4bit"), "bfloat16", "bfloat16"),
        ("h200", (*TINY, "lora=small", "quantization=8bit"), "bfloat16", "bfloat16"),
        # what is given stays
        ("t4", ("precision=float16",), "float16", "float32"),
        ("t4", (*TINY, "lora=small", "precision=float16"), "float16", "float16"),
        ("cpu", ("precision=bfloat16",), "bfloat16", "float32"),
        ("cpu", (*TINY, "lora=small", "precision=bfloat16"), "bfloat16", "bfloat16"),
        ("h200", (*TINY, "lora=small", "precision=float32"), "float32", "float32"),
    ],
)
def test_precision(hardware, options, compute, weights, solved):
    precision = solved(f"hardware={hardware}", *options).spec.precision

    assert (precision.compute, precision.weights) == (compute, weights)


@pytest.mark.parametrize(
    ("hardware", "options", "attention"),
    [
        ("cpu", (), "sdpa"),
        ("cpu", ("precision=bfloat16",), "sdpa"),
        ("h200", (), "flash_attention_2"),
        ("h200", ("precision=float32",), "sdpa"),
        ("t4", ("precision=float16",), "sdpa"),  # its generation has no kernels
        ("h200", ("model.family=gpt_neo",), "eager"),
        ("h200", ("model.attention=eager",), "eager"),
    ],
)
def test_attention_with_flash_attn_installed(hardware, options, attention, solved):
    assert solved(f"hardware={hardware}", *options).spec.model.attention == attention


def test_attention_without_flash_attn(solved, everything_installed):
    del everything_installed["flash-attn"]

    assert solved("hardware=h200").spec.model.attention == "sdpa"


@pytest.mark.parametrize(
    ("options", "processes"),
    [
        (("hardware=cpu",), 1),
        (("hardware=h200", "hardware.count=8"), 1),
        (("hardware=h200", "hardware.count=8", "launch=torchrun"), 8),
        (("hardware=h200", "hardware.count=8", "launch=torchrun", "launch.processes=4"), 4),
        (("hardware=cpu", "launch=torchrun"), 1),
    ],
)
def test_one_process_per_device(options, processes, solved):
    assert solved(*options).spec.launch.processes == processes


def test_fused_adamw_unless_told_otherwise(solved):
    assert solved().spec.optimizer.fused is True
    assert solved("optimizer.fused=false").spec.optimizer.fused is False


def test_described_hardware_is_not_probed(unsolved):
    assert probe_machine(unsolved("hardware=h200")).values == ()


def test_hardware_at_hand_is_probed(unsolved, monkeypatch):
    machine = {"device": "cuda", "name": "Test GPU", "count": 2, "memory_gib": 24.0,
               "compute_capability": "8.9", "bf16": True, "cores": 8}  # fmt: skip
    monkeypatch.setattr("llmforge.compiler.derive.machine.probe_hardware", lambda: machine)
    context, origins = unsolved("hardware=auto"), Origins()

    found = context.apply(probe_machine(context), "probe_machine", origins)

    assert found.spec.hardware.settings() == {"kind": "device", **machine}
    assert origins.chain("hardware.name")[-1].kind == "probed"


def test_attention_of_an_unknown_family_is_the_one_that_runs_everywhere(unsolved):
    (found,) = derive_attention(unsolved(facts=Facts())).values

    assert found.value == "sdpa"
