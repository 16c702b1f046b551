"""On a CUDA device: the example in bfloat16, quantized bases under adapters, resume.

Run with `pytest -m gpu tests/e2e`.
"""

import math
from pathlib import Path

import pytest

import llmforge
from llmforge.run.launch import Outcome
from llmforge.run.ledger import RunFolder

pytestmark = pytest.mark.gpu

SHORT = ["tracking=none", "data.rows=400", "trainer.epochs=null", "trainer.max_steps=30",
         "evaluation.exact_match_rows=8", "evaluation.samples=1"]  # fmt: skip


def run(*overrides: str) -> tuple[llmforge.plan.Plan, Outcome]:
    plan = llmforge.compile([*SHORT, *overrides])
    outcome = plan.run(quiet=True)
    log = (outcome.folder / "log.txt").read_text()
    assert outcome.exit_code == 0, log[-4000:]
    return plan, outcome


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained checkpoint of the example's shape, to be adapted."""
    import os

    folder = tmp_path_factory.mktemp("base")
    before = Path.cwd()
    os.chdir(folder)
    try:
        # bitsandbytes' kernels want widths that are multiples of 64
        _, outcome = run("model.hidden=256", "model.intermediate=512", "trainer.max_steps=200")
    finally:
        os.chdir(before)
    return folder / outcome.folder / "model"


def test_scratch_model_trains_in_bfloat16_and_reports_its_peak_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    plan, outcome = run("trainer.max_steps=150")

    assert plan.settings["hardware"]["device"] == "cuda"
    assert plan.settings["precision"]["compute"] == "bfloat16"
    assert outcome.result is not None
    assert outcome.result["eval_perplexity"] < outcome.result["baseline"]["eval_perplexity"] / 50
    assert outcome.result["peak_memory_bytes"] > plan.estimate["total_parameters"] * 4 * 4


@pytest.mark.parametrize(
    ("quantization", "optimizer"),
    [("none", "adamw_lora"), ("8bit", "adamw_8bit"), ("4bit", "adamw_8bit")],
)
def test_adapter_over_a_quantized_base_learns(
    base: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    quantization: str,
    optimizer: str,
) -> None:
    monkeypatch.chdir(tmp_path)

    plan, outcome = run("model=folder", f"model.path={base}", "lora=small", "data.generator_seed=1",
                        f"quantization={quantization}", f"optimizer={optimizer}")  # fmt: skip

    assert outcome.result is not None
    assert outcome.result["eval_loss"] < outcome.result["baseline"]["eval_loss"]
    assert outcome.result["trainable_parameters"] == plan.estimate["trainable_parameters"]
    assert {p.name for p in (outcome.folder / "model").glob("*.safetensors")} == {
        "adapter_model.safetensors"
    }


def test_float16_trains_with_loss_scaling(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    _, outcome = run("precision=float16", "trainer.max_steps=150")

    assert outcome.result is not None
    after, before = outcome.result["eval_loss"], outcome.result["baseline"]["eval_loss"]
    assert math.isfinite(after), f"{after} after {before}"
    assert after < before / 2, f"{after} after {before}"


def test_gradient_checkpointing_lowers_the_peak(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shape = ("model.layers=16", "trainer.max_steps=5", "evaluation=end", "evaluation.samples=0")

    _, without = run(*shape, "trainer.gradient_checkpointing=false", "name=without")
    _, with_it = run(*shape, "trainer.gradient_checkpointing=true", "name=with")

    assert without.result is not None
    assert with_it.result is not None
    assert with_it.result["peak_memory_bytes"] < without.result["peak_memory_bytes"]


def test_a_finished_run_loads_and_answers(base: Path) -> None:
    model, tokenizer = llmforge.load(RunFolder.open(base.parent).path)

    from llmforge.stages.generate import answer

    text = answer(model, tokenizer, "What is the capital of France?", {"max_new_tokens": 16})
    assert text.strip()
