"""Micro batch and gradient checkpointing: the fastest setting that the device holds."""

from __future__ import annotations

import pytest

from llmforge.compiler.memory.fit import sheet_of

EIGHT = ("model=llama3_8b", "lora=small", "quantization=4bit")


@pytest.mark.parametrize(
    ("hardware", "options", "micro", "checkpointing"),
    [
        # a small model fits whole, whatever the device
        ("cpu", (), 32, False),
        ("h200", (), 32, False),
        # eight billion: recomputed on 24 GB, kept on 140, half as many rows at once
        ("rtx4090", EIGHT, 4, True),
        ("h200", EIGHT, 4, False),
        # what is given is left alone
        ("h200", (*EIGHT, "trainer.gradient_checkpointing=true"), 8, True),
        ("h200", (*EIGHT, "trainer.micro_batch=2"), 2, False),
        ("h200", (*EIGHT, "trainer.micro_batch=16"), 16, True),
    ],
)
def test_the_fastest_that_fits(hardware, options, micro, checkpointing, solved):
    context = solved(f"hardware={hardware}", *options)

    trainer = context.spec.trainer
    assert (trainer.micro_batch, trainer.gradient_checkpointing) == (micro, checkpointing)
    assert trainer.global_batch == trainer.micro_batch * trainer.accumulation
    assert sheet_of(context).fits


def test_what_fits_in_no_way_is_as_small_as_it_gets(solved):
    trainer = solved("hardware=t4", "model=llama3_8b").spec.trainer

    assert (trainer.micro_batch, trainer.gradient_checkpointing) == (1, True)


def test_evaluation_takes_no_more_rows_than_its_logits_leave_room_for(solved):
    """Logits of twice the rows would be the largest thing of all."""
    context = solved(
        "hardware=rtx4090", "model=llama3_2_1b", "lora=small", "trainer.loss_kernel=full"
    )

    micro = context.spec.trainer.micro_batch
    assert context.spec.evaluation.micro_batch in (micro, 2 * micro)
    assert sheet_of(context).fits
