"""Python users: compile, run, load. And the command line as a user types it, end to end."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import llmforge
from llmforge.diagnostics import ConfigRefused

TINY = [
    "tracking=none", "data.rows=300", "model.layers=1", "model.hidden=32", "model.intermediate=64",
    "trainer.epochs=null", "trainer.max_steps=4", "evaluation=end", "evaluation.samples=1",
    "generation.max_new_tokens=4",
]  # fmt: skip


def test_compile_run_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    plan = llmforge.compile(["lora=small", *TINY])
    run = plan.run(quiet=True)
    model, tokenizer = llmforge.load(run)

    assert run.exit_code == 0
    assert run.result is not None
    assert run.result["steps"] == plan.estimate["steps"] == 4
    assert run.result["trainable_parameters"] == plan.estimate["trainable_parameters"]
    assert not model.training
    ids = tokenizer("What is the capital of France?", return_tensors="pt").input_ids
    assert model(ids).logits.shape == (1, ids.shape[1], plan.settings["model"]["vocabulary"])


def test_a_refused_plan_raises_every_finding() -> None:
    with pytest.raises(ConfigRefused) as refused:
        llmforge.compile(["optimizer.lrr=1", "lora=smal", "hub=push"])

    errors = [d.code for d in refused.value.diagnostics if d.is_error]
    assert errors == ["LF102", "LF101", "LF701"]


def test_load_says_which_runs_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(LookupError):
        llmforge.load("nothing")


def test_importing_llmforge_is_light() -> None:
    probe = (
        "import llmforge, sys; print([m for m in ('hydra','pydantic','torch') if m in sys.modules])"
    )

    done = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def cli(*args: str, cwd: Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "llmforge", *args],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done


def test_a_saved_plan_runs_with_no_conf_folder_present(tmp_path: Path) -> None:
    cli("plan", *TINY, "-o", "plan.json", cwd=tmp_path)
    bare = tmp_path / "bare"
    checkout = Path(llmforge.__file__).parents[1]
    shutil.copytree(
        checkout / "llmforge", bare / "llmforge", ignore=shutil.ignore_patterns("__pycache__")
    )
    shutil.copy(tmp_path / "plan.json", bare)

    refused = cli("check", cwd=bare, code=1, PYTHONPATH=str(bare))
    done = cli("train", "--plan", "plan.json", cwd=bare, PYTHONPATH=str(bare))

    assert "conf" in refused.stderr  # there really is none
    plan = json.loads((bare / "plan.json").read_text())
    assert (bare / "runs" / plan["run_id"] / "model" / "model.safetensors").is_file()
    assert f"llmforge generate --run {plan['run_id']}" in done.stdout


@pytest.mark.slow
def test_train_again_evaluate_generate_runs(tmp_path: Path) -> None:
    first = cli("train", *TINY, "name=tiny", cwd=tmp_path)
    again = cli("train", *TINY, "name=tiny", cwd=tmp_path)
    run_id = next((tmp_path / "runs").iterdir()).name

    assert "was finished" in again.stderr
    assert again.stdout == first.stdout
    assert "perplexity" in cli("evaluate", "--run", "last", cwd=tmp_path).stdout
    assert cli("generate", "Hello", "--run", run_id[:8], cwd=tmp_path).stdout
    assert run_id in cli("runs", cwd=tmp_path).stdout
    assert "LF863" in cli("generate", "Hello", "--run", "tinny", cwd=tmp_path, code=2).stderr


@pytest.mark.slow
def test_multirun_runs_each_point_and_leaves_out_what_is_refused(tmp_path: Path) -> None:
    cli("train", "-m", *TINY, "optimizer.lr=1e-3,2e-3", "tracking=none", cwd=tmp_path)
    (sweep,) = (tmp_path / "multirun").iterdir()
    assert len(list(sweep.glob("*/result.json"))) == 2

    told = cli("train", "-m", *TINY, "precision=float16,float32", "sweep.refused=stop",
               "tracking=none", cwd=tmp_path, code=2)  # fmt: skip
    assert "float16" in told.stderr
    assert len(list((tmp_path / "multirun").iterdir())) == 1
