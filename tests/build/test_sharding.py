"""Two gloo processes share a run in every way there is, and do what one process does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

SMALL = (
    *("tracking=none", "hardware=cpu", "model=small_llama", "model.layers=2", "model.hidden=64"),
    *("model.intermediate=128", "model.heads=4", "model.kv_heads=2", "model.context=256"),
    *("tokenizer.vocabulary=300", "data.max_train_rows=50", "data.max_eval_rows=9"),
    *("collator.max_length=256", "trainer.epochs=null", "trainer.max_steps=8"),
    *("trainer.global_batch=8", "trainer.log_every=1", "evaluation.at_start=false"),
    *("evaluation.every=null", "evaluation.samples=0", "evaluation.exact_match_rows=0"),
    "checkpoint.every=4",
)
"""50 rows in batches of 8: the seventh step ends an epoch with two rows."""

pytestmark = pytest.mark.timeout(1200)  # the first test waits for every engine

TWO = ("launch=torchrun", "launch.processes=2", "trainer.micro_batch=2")
ENGINES = {
    "ddp": (),
    "zero1": ("deepspeed=stage1",),
    "zero2": ("deepspeed=stage2",),
    "zero3": ("deepspeed=stage3",),
    "zero2_offload": ("deepspeed=stage2_offload",),
    "zero3_offload": ("deepspeed=stage3_offload",),
    "fsdp2": ("fsdp=full_shard",),
    "fsdp2_kept": ("fsdp=shard_grad_op",),
    "fsdp2_checkpointing": ("fsdp=full_shard", "trainer.gradient_checkpointing=true"),
}
RESUMED = ("zero2", "zero3", "fsdp2", "zero3_lora", "fsdp2_lora")
LORA = ("lora=small", "lora.dropout=0")
PACKED = ("collator=packed",)


def cases(folder: Path) -> dict[str, list[str]]:
    """Name -> overrides; each with a run folder of its own."""
    found: dict[str, tuple[str, ...]] = {}
    for kind, more in (("", ()), ("_lora", LORA), ("_packed", PACKED)):
        found[f"one{kind}"] = (*more, "trainer.micro_batch=4")
        for name, engine in ENGINES.items():
            if not kind or name in ("ddp", "zero2", "zero3", "fsdp2"):
                found[name + kind] = (*TWO, *engine, *more)
    return {
        name: [*SMALL, *more, f"name={name}", f"paths.runs={folder}", f"paths.cache={folder}/.c"]
        for name, more in found.items()
    }


def run(asked: dict[str, list[str]], folder: Path) -> dict[str, Any]:
    """Carry the cases out, each over two processes."""
    (folder / "cases.json").write_text(json.dumps(asked))
    script = Path(__file__).with_name("ranks.py")
    done = subprocess.run(
        [sys.executable, str(script), "cases.json", "out.json"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads((folder / "out.json").read_text())
    for name, case in found.items():
        log = Path(case["folder"], "log.txt").read_text()
        assert set(case["codes"]) == {0}, f"{name}: {log[-3000:]}"
    return found


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sharded")


@pytest.fixture(scope="module")
def done(bench: Path) -> dict[str, Any]:
    pytest.importorskip("deepspeed")
    return run(cases(bench), bench)


def weights(folder: str | Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for file in Path(folder, "model").glob("*.safetensors"):
        found |= load_file(file)
    return found


def of_kind(done: dict[str, Any], kind: str) -> list[str]:
    """Cases of two processes: plain ones, those with an adapter, or packed ones."""
    return [name for name in done if name.removesuffix(kind) in ENGINES and name.endswith(kind)]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "_lora", "_packed"])
def test_two_processes_take_the_steps_of_one(kind, done):
    """Accumulation included, and the short step that ends an epoch."""
    one = done[f"one{kind}"]["losses"][0]
    for name in of_kind(done, kind):
        assert done[name]["losses"][0] == pytest.approx(one, abs=1e-5), name


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["", "_lora", "_packed"])
def test_every_engine_trains_the_same_model(kind, done):
    plain = done[f"ddp{kind}"]
    expected = weights(plain["folder"])
    for name in of_kind(done, kind):
        assert done[name]["losses"][0] == pytest.approx(plain["losses"][0], abs=1e-5), name
        found = weights(done[name]["folder"])
        assert found.keys() == expected.keys(), name
        for key, weight in expected.items():
            assert found[key].allclose(weight, atol=2e-3), f"{name}: {key}"


@pytest.mark.slow
def test_weights_are_really_sharded(done):
    whole = done["ddp"]["held"][0]
    for name in ("fsdp2", "fsdp2_kept", "fsdp2_lora", "fsdp2_packed"):
        assert all(held["trained"] == ["DTensor"] for held in done[name]["held"]), name
    for name in ("fsdp2", "zero3"):
        parts = [held["weights"] for held in done[name]["held"]]
        assert sum(parts) == pytest.approx(whole["weights"], rel=0.02), name
        assert max(parts) < 0.55 * whole["weights"], name
    for name in ("zero1", "zero2", "zero3", "fsdp2"):
        parts = [held["state"] for held in done[name]["held"]]
        assert sum(parts) == pytest.approx(whole["state"], rel=0.05), name


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ddp", "zero1", "zero2", "zero3", "fsdp2"])
def test_the_memory_sheet_foretells_what_a_rank_holds(name, done):
    plan = json.loads(Path(done[name]["folder"], "plan.json").read_text())
    told = plan["estimate"]["memory"]["step"]
    for held in done[name]["held"]:
        assert told["weights"] == pytest.approx(held["weights"], rel=0.05)
        assert told["optimizer_state"] == pytest.approx(held["state"], rel=0.05)
        assert told.get("master_weights", 0) == pytest.approx(held["masters"], rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["zero3_lora", "fsdp2_lora", "zero2_lora"])
def test_the_final_model_of_a_lora_run_is_the_adapter(name, done):
    folder = Path(done[name]["folder"], "model")
    assert all("lora_" in key for key in load_file(folder / "adapter_model.safetensors"))
    assert not list(folder.glob("*.pt")), "nothing of the engine's own"
    assert not list(folder.glob("global_step*"))
    base = load_file(folder / "base" / "model.safetensors")
    assert "lm_head.weight" not in base, "a tied head is stored once"


@pytest.mark.slow
def test_plain_transformers_read_the_consolidated_model(done):
    from transformers import AutoModelForCausalLM

    for name in ("zero3", "fsdp2"):
        folder = Path(done[name]["folder"], "model")
        assert "lm_head.weight" not in load_file(folder / "model.safetensors")
        model = AutoModelForCausalLM.from_pretrained(folder)
        assert sum(weight.numel() for weight in model.parameters()) == 93_248


@pytest.mark.slow
def test_a_seal_covers_the_files_of_every_rank(done):
    from llmforge.run import sealing

    for name, part in (("zero3", "zero_pp_rank_1"), ("fsdp2", "__1_0"), ("ddp", "rng_state_1")):
        folder = Path(done[name]["folder"], "checkpoints", "checkpoint-8")
        sealed = [file for file in sealing.facts(folder)["files"] if part in file]
        assert sealed, name
        assert sealing.fault(folder, thorough=True) is None
        lost = folder / sealed[0]
        aside = lost.rename(lost.with_suffix(".aside"))
        assert sealing.fault(folder) == f"{sealed[0]} is missing"
        aside.rename(lost)


@pytest.mark.slow
def test_a_run_that_goes_on_ends_with_the_same_weights(done, bench):
    """From the checkpoint in the middle: bit for bit."""
    undisturbed = {name: weights(done[name]["folder"]) for name in RESUMED}
    for name in RESUMED:
        folder = Path(done[name]["folder"])
        shutil.rmtree(folder / "checkpoints" / "checkpoint-8")
        shutil.rmtree(folder / "model")
        (folder / "result.json").unlink()
    asked = cases(bench)
    again = run({name: asked[name] for name in RESUMED}, bench)
    for name in RESUMED:
        first, second = again[name]["losses"]
        assert second == first[4:], name
        found = weights(again[name]["folder"])
        assert all(found[key].equal(undisturbed[name][key]) for key in found), name
