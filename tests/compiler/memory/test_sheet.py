"""The memory sheet against what one H200 measured (torch 2.11, `benchmarks/memory.py`)."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest

from llmforge.compiler.memory.fit import CannotFit, fit, largest_fitting, sheet_of
from llmforge.compiler.memory.remedies import smallest_change
from llmforge.compiler.memory.sheet import Sheet
from llmforge.compiler.passes import Checked, check

GIB = 2**30
MEASURED = json.loads(Path(__file__).with_name("measured.json").read_text(encoding="utf-8"))
"""Case -> overrides and GiB, as the benchmark prints them."""

FIXED = (
    "trainer.global_batch=auto", "trainer.epochs=null", "trainer.max_steps=3", "hardware=h200",
    "checkpoint.every=null", "evaluation=end", "evaluation.samples=0",
)  # fmt: skip


@pytest.fixture(autouse=True)
def with_liger(everything_installed: dict[str, str]) -> None:
    """As on the GPU that measured: every optional package is there but flash-attn."""
    del everything_installed["flash-attn"]


def compiled(*overrides: str) -> Checked:
    found = check(overrides)
    assert found.context is not None
    return found


def sheet(*overrides: str) -> Sheet:
    context = compiled(*overrides).context
    assert context is not None
    found = sheet_of(context)
    assert found is not None
    return found


@pytest.mark.parametrize("case", MEASURED, ids=lambda case: case["case"])
def test_what_is_foretold_is_what_a_gpu_measured(case: dict[str, object]) -> None:
    overrides = tuple(str(word) for word in case["overrides"])  # type: ignore[attr-defined]
    found = sheet(*overrides, *FIXED)
    assert found.totals["step"] / GIB == pytest.approx(case["step_gib"], rel=0.03)
    assert found.totals["evaluation"] / GIB == pytest.approx(case["evaluation_gib"], rel=0.1)


def test_the_median_error_is_far_below_one_percent() -> None:
    errors = []
    for case in MEASURED:
        found = sheet(*case["overrides"], *FIXED)
        errors.append(abs(found.totals["step"] / GIB / case["step_gib"] - 1))
    assert statistics.median(errors) < 0.002


DPO = (
    "model=llama3_2_1b", "trainer=dpo", "data=builtin_pairs", "collator.max_length=1024",
    "trainer.micro_batch=4", "evaluation.micro_batch=4",
)  # fmt: skip
RANK_16 = ("lora=small", "lora.r=16", "lora.dropout=0")
OFF, ON = "trainer.gradient_checkpointing=false", "trainer.gradient_checkpointing=true"
PAIRS = {
    "full, copy": ((OFF, "trainer.reference=copy"), 37.80),
    "full, copy, checkpointing": ((ON, "trainer.reference=copy"), 24.30),
    "full, precomputed": ((OFF, "trainer.reference=precomputed"), 33.20),
    "LoRA": ((OFF, *RANK_16), 17.34),
    "LoRA, checkpointing": ((ON, *RANK_16), 4.42),
    "LoRA over 4 bits": ((OFF, *RANK_16, "quantization=4bit"), 22.51),
    "LoRA over 4 bits, accumulated": (
        (ON, *RANK_16, "quantization=4bit", "trainer.accumulation=2"),
        4.54,
    ),
}
"""Ways of preference tuning, and GiB at most (`tests/e2e/test_gpu_preference.py`)."""


@pytest.mark.parametrize("way", PAIRS)
def test_what_is_foretold_of_pairs_is_what_a_gpu_measured(way: str) -> None:
    overrides, measured = PAIRS[way]
    assert sheet(*DPO, *overrides, *FIXED).peak / GIB == pytest.approx(measured, rel=0.02)


EVALUATION = (
    "model=llama3_2_1b", *RANK_16, ON, "trainer.micro_batch=1", "collator.max_length=1024",
    "trainer.loss_kernel=chunked", "generation.max_new_tokens=16",
)  # fmt: skip
ACCURACY = ("metrics.token_accuracy.kind=token_accuracy", "evaluation.micro_batch=16")
ANSWERS = (
    *("evaluation.exact_match_rows=64", "evaluation.answers_at_once=64"),
    "evaluation.micro_batch=1",
)


@pytest.mark.parametrize(
    ("overrides", "alone"),
    [
        (ACCURACY, 7.29),
        ((*ACCURACY, "quantization=4bit"), 6.43),
        (ANSWERS, 9.87),
        ((*ANSWERS, "quantization=4bit"), 14.50),
    ],
)
def test_evaluation_takes_what_a_gpu_measured(overrides: tuple[str, ...], alone: float) -> None:
    """By itself it has no state of an optimizer."""
    found = sheet(*EVALUATION, *FIXED, *overrides).phases["evaluation"]
    terms = {k: v for k, v in found.items() if k != "optimizer_state"}
    assert sum(terms.values()) / GIB == pytest.approx(alone, rel=0.05)


def test_a_larger_batch_takes_more_and_checkpointing_less() -> None:
    base = ("model=llama3_8b", "lora=small", "hardware=h200", "trainer.global_batch=auto")
    off = "trainer.gradient_checkpointing=false"
    small = sheet(*base, off, "trainer.micro_batch=1")
    large = sheet(*base, off, "trainer.micro_batch=4")
    recomputed = sheet(*base, "trainer.gradient_checkpointing=true", "trainer.micro_batch=4")
    steps = [found.totals["step"] for found in (recomputed, small, large)]
    assert steps == sorted(steps)


def test_the_largest_that_fits_fits_and_one_more_does_not() -> None:
    context = compiled(
        "model=llama3_8b", "lora=4bit_s", "quantization=4bit", "hardware=rtx4090"
    ).context
    assert context is not None
    for key in ("collator.max_length", "lora.r"):
        answer = fit(context, key)
        at, above = (sheet_of(context, {key: answer.largest + more}) for more in (0, 1))
        assert at is not None
        assert above is not None
        assert answer.bound == "memory"
        assert at.fits, key
        assert not above.fits, key


def replaced(words: tuple[str, ...], pasted: str) -> list[str]:
    """The command with the pasted words in place of those for the same keys."""
    new = pasted.split()
    keys = {word.partition("=")[0] for word in new}
    return [word for word in words if word.partition("=")[0] not in keys] + new


@pytest.mark.parametrize("key", ["trainer.micro_batch", "collator.max_length", "lora.r"])
@pytest.mark.parametrize(
    "words",
    [
        ("model=llama3_8b", "lora=4bit_s", "quantization=4bit", "hardware=rtx4090"),
        ("model=llama3_2_3b", "lora=small", "hardware=rtx4090", "trainer.micro_batch=4"),
        ("model=qwen2_5_7b", "lora=small", "hardware=a100_80gb", "collator.max_length=8192"),
    ],
)
def test_an_answer_pasted_is_accepted(words: tuple[str, ...], key: str) -> None:
    asked = compiled(*words)
    assert asked.context is not None
    answer = fit(asked.context, key)
    assert answer.override is not None
    pasted = check(replaced(words, answer.override))
    assert [d.message for d in pasted.diagnostics if d.is_error] == []


REFUSED = [
    ("model=llama3_8b", "hardware=h200"),
    ("model=llama3_8b", "hardware=rtx4090"),
    ("model=llama3_8b", "hardware=h100_80gb", "hardware.count=8"),
    ("model=llama3_8b", "lora=small", "hardware=t4"),
    ("model=llama3_8b", "lora=small", "hardware=rtx4090", "trainer.micro_batch=16",
     "trainer.gradient_checkpointing=false"),
    ("model=llama3_8b", "lora=prefix", "hardware=rtx4090"),
    ("model=llama3_8b", "lora=small", "quantization=8bit", "hardware=t4"),
    ("model=llama3_8b", "lora=small", "hardware=rtx4090", "trainer.global_batch=auto",
     "trainer.micro_batch=7"),
    ("model=llama3_8b", "lora=small", "hardware=a100_80gb", "collator.max_length=8192",
     "trainer.micro_batch=32", "trainer.loss_kernel=full"),
]  # fmt: skip


@pytest.mark.parametrize("words", REFUSED, ids=" ".join)
def test_a_hint_pasted_is_accepted(words: tuple[str, ...]) -> None:
    asked = check(words)
    hints = [d.hint for d in asked.diagnostics if d.code == "LF209"]
    assert len(hints) == 1
    assert hints[0] is not None
    pasted = check(replaced(words, hints[0]))
    assert [d.message for d in pasted.diagnostics if d.is_error] == []


def test_packs_as_one_row_take_no_more_in_evaluation() -> None:
    base = ("model=llama3_8b", "lora=small", "hardware=h200", "trainer.micro_batch=8")
    flash = (*base, "model.attention=flash_attention_2")
    packed, padded = sheet(*flash, "collator.packing=best_fit"), sheet(*flash)
    assert packed.totals["evaluation"] == padded.totals["evaluation"]


def test_processes_of_a_cpu_share_its_memory() -> None:
    base = ("model=llama3_8b", "lora=small", "quantization=4bit", "hardware=cpu")
    two = compiled(*base, "launch=torchrun", "launch.processes=2")
    assert [d.code for d in two.diagnostics if d.is_error] == ["LF209"]


def test_the_override_keeps_the_global_batch_where_one_was_asked_for() -> None:
    context = compiled(
        "model=llama3_8b", "lora=small", "quantization=4bit", "hardware=h200"
    ).context
    assert context is not None
    asked, free = (fit(context, "trainer.micro_batch", any_batch) for any_batch in (False, True))
    assert asked.override == "trainer.micro_batch=4 trainer.accumulation=8"  # 32 in all
    assert free.override == "trainer.micro_batch=6 trainer.accumulation=1"


def test_a_fit_is_asked_for_numbers_only() -> None:
    context = compiled("hardware=cpu").context
    assert context is not None
    with pytest.raises(CannotFit, match="these can: trainer"):
        fit(context, "optimizer.lr")
    with pytest.raises(CannotFit, match="no rank"):
        fit(context, "lora.r")


@pytest.mark.parametrize("boundary", [0, 1, 2, 3, 7, 8, 9, 1000])
def test_halving_finds_the_boundary(boundary: int) -> None:
    assert largest_fitting(lambda n: n <= boundary, 100) == min(boundary, 100)


def test_what_is_solved_fits() -> None:
    for hardware in ("rtx4090", "a100_80gb", "h200"):
        found = compiled(
            "model=llama3_8b", "lora=small", "quantization=4bit", f"hardware={hardware}"
        )
        assert not found.refused
        assert found.context is not None
        assert sheet_of(found.context).fits  # type: ignore[union-attr]


def test_checkpointing_is_off_where_it_fits_without() -> None:
    setting = {}
    for hardware in ("rtx4090", "h200"):
        context = compiled(
            "model=llama3_8b", "lora=small", "quantization=4bit", f"hardware={hardware}"
        )
        assert context.context is not None
        setting[hardware] = context.context.spec.trainer.gradient_checkpointing
    assert setting == {"rtx4090": True, "h200": False}


def test_the_smallest_change_keeps_the_results_where_it_can() -> None:
    base = ("model=llama3_8b", "lora=small", "hardware=a100_80gb")
    asked = compiled(*base, "trainer.micro_batch=32", "trainer.gradient_checkpointing=false")
    assert asked.refused
    assert asked.context is not None
    found = smallest_change(asked.context)
    assert found is not None
    assert found.startswith("trainer.micro_batch=")


def test_nothing_helps_a_model_that_is_too_large() -> None:
    asked = compiled("model=llama2_70b", "lora=small", "quantization=4bit", "hardware=t4")
    assert [d.code for d in asked.diagnostics if d.is_error] == ["LF209"]
    assert [d.hint for d in asked.diagnostics if d.code == "LF209"] == [None]
