"""What stays in memory, counted by hand for shapes small enough to count."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from llmforge.compiler.context import Context
from llmforge.compiler.memory.disk import disk
from llmforge.compiler.memory.loss import CHUNK_BYTES, LEAST_TOKENS, loss_memory
from llmforge.compiler.memory.static import Static, model_parts, static_memory

EIGHT = "model=llama3_8b"
PARAMETERS, TABLE = 8_030_261_248, 128_256 * 4096
LINEAR = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
NORMS = 65 * 4096

Solve = Callable[..., Context]


def static(solved: Solve, *overrides: str) -> Static:
    context = solved("hardware=h200", *overrides)
    assert context.facts.model is not None
    found = static_memory(context.facts.model, context.spec, context.facts.model_config)
    assert found is not None
    return found


def test_every_parameter_is_in_one_part(solved):
    context = solved("hardware=h200", EIGHT, "lora=small", "quantization=4bit")
    parts = model_parts(context.facts.model, context.spec)

    assert (parts.quantized, parts.embeddings, parts.norms) == (LINEAR, 2 * TABLE, NORMS)
    assert parts.rest == PARAMETERS - LINEAR - 2 * TABLE - NORMS == 0


@pytest.mark.parametrize(
    ("options", "weights"),
    [
        ((), 4 * PARAMETERS),  # trained weights keep float32
        (("precision.weights=bfloat16",), 2 * PARAMETERS),
        (("lora=small",), 2 * PARAMETERS),
        # the base's norms, embeddings and head go up to float32, as PEFT prepares them
        (("lora=small", "quantization=4bit"), LINEAR // 2 + 4 * (2 * TABLE + NORMS)),
        (("lora=small", "quantization=8bit"), LINEAR + 4 * (2 * TABLE + NORMS)),
        (
            ("lora=small", "quantization=4bit", "precision.embeddings=weights"),
            LINEAR // 2 + 2 * 2 * TABLE + 4 * NORMS,
        ),
    ],
)
def test_weights(options, weights, solved):
    assert static(solved, EIGHT, *options).held["weights"] == weights


@pytest.mark.parametrize(
    ("optimizer", "per_parameter"),
    [
        ("adamw", 8),
        ("adam", 8),
        ("adamw_schedule_free", 8),
        ("lion", 4),
        ("sgd", 4),
    ],
)
def test_state_of_whole_fine_tuning(optimizer, per_parameter, solved):
    found = static(solved, EIGHT, f"optimizer={optimizer}", "precision.weights=float32")

    assert found.held["optimizer_state"] == per_parameter * PARAMETERS
    assert found.gradients == 4 * PARAMETERS


def test_eight_bit_state_leaves_embeddings_alone(solved):
    found = static(solved, EIGHT, "optimizer=adamw_8bit", "optimizer.paged=false")

    small = PARAMETERS - 2 * TABLE
    assert found.held["optimizer_state"] == pytest.approx(
        2 * (small * (1 + 4 / 256) + 4 * 2 * TABLE), rel=1e-9
    )


def test_paged_state_lies_in_main_memory(solved):
    found = static(solved, EIGHT, "optimizer=adamw_paged")

    assert "optimizer_state" not in found.held
    assert found.host["optimizer_state"] == 8 * PARAMETERS


def test_an_adapter_trains_in_float32_over_a_16_bit_base(solved):
    found = static(solved, EIGHT, "lora=small")  # rank 8 on every linear module

    adapter = 32 * 8 * (2 * 8192 + 2 * 5120 + 3 * 18432)
    assert found.held["adapter"] == found.gradients == 4 * adapter
    assert found.held["optimizer_state"] == 8 * adapter


def test_the_adapter_in_the_format_of_the_weights(solved):
    half = static(solved, EIGHT, "lora=small", "precision.adapter=weights")
    whole = static(solved, EIGHT, "lora=small")

    assert 2 * half.held["adapter"] == whole.held["adapter"]


TWO = ("launch=torchrun", "launch.processes=2", "hardware.count=2")


def test_zero_divides_more_with_each_stage(solved):
    totals = [
        static(solved, EIGHT, *TWO, f"deepspeed=stage{stage}", "precision.weights=bfloat16")
        for stage in (1, 2, 3)
    ]
    alone = static(solved, EIGHT, *TWO, "precision.weights=bfloat16")

    assert alone.held["communication_buckets"] == alone.gradients
    first, second, third = totals
    assert first.held["optimizer_state"] == 8 * PARAMETERS // 2
    assert first.held["master_weights"] == 4 * PARAMETERS // 2
    assert second.gradients * 2 == first.gradients
    assert third.held["weights"] * 2 == second.held["weights"]


def test_fsdp_divides_everything(solved):
    found = static(solved, EIGHT, *TWO, "fsdp=full_shard")

    assert found.held["weights"] == 4 * PARAMETERS // 2
    assert found.gradients == 4 * PARAMETERS // 2
    assert 0 < found.held["gathered_weights"] < 2 * PARAMETERS


def test_the_final_folder_of_an_adapter_is_small(solved):
    sizes = {}
    for options in ((), ("lora=small",)):
        context = solved("hardware=h200", EIGHT, "precision.weights=bfloat16", *options)
        found = static_memory(context.facts.model, context.spec)
        sizes[options] = disk(context.spec, found)

    assert sizes[()].model == 2 * PARAMETERS
    assert sizes[()].checkpoint == 6 * PARAMETERS
    adapter = sizes[("lora=small",)]
    assert adapter.checkpoint == 3 * adapter.model < 300 * 2**20


def test_whole_logits_take_twelve_bytes_per_token_and_word(solved):
    context = solved("hardware=h200", EIGHT, "lora=small", "trainer.loss_kernel=full")
    words = 4 * 512 * 128_256

    found = loss_memory(context.facts.model, context.spec, 4, 512, 8)

    assert (found.forward, found.backward) == (10 * words, 12 * words)
    assert found.evaluation == 6 * 2 * words


@pytest.mark.parametrize("kernel", ["chunked", "liger"])
def test_lean_kernels_never_hold_all_logits(kernel, solved):
    context = solved("hardware=h200", EIGHT, "lora=small", f"trainer.loss_kernel={kernel}")
    rows, length = 8, 8192

    found = loss_memory(context.facts.model, context.spec, rows, length, rows)

    assert max(found.forward, found.backward, found.evaluation) < rows * length * 128_256


def test_the_chunk_is_the_builders():
    from llmforge.build import loss_kernels

    assert (loss_kernels.CHUNK_BYTES, loss_kernels.LEAST_TOKENS) == (CHUNK_BYTES, LEAST_TOKENS)
