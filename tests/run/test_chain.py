"""`llmforge run`: the stages of a plan in their order, each done once, all in one MLflow run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest

from llmforge.compiler.passes import compile_plan
from llmforge.diagnostics import ConfigRefused
from llmforge.plan import Plan
from llmforge.run.chain import ChainOutcome, run_chain
from llmforge.run.chain.doing import do
from llmforge.run.chain.ledger import NAME, Entry
from llmforge.run.chain.links import Link, links
from llmforge.run.chain.telling import overview
from llmforge.run.folder import RunFolder

SHAPE = ("model.layers=1", "model.hidden=32", "model.heads=2", "model.kv_heads=2",
         "model.intermediate=32", "tokenizer.vocabulary=300")  # fmt: skip
SHORT = ("data.rows=200", "data.max_cut_tokens=null", "trainer.epochs=null", "trainer.max_steps=4",
         "evaluation.every=null", "evaluation.exact_match_rows=2", "evaluation.samples=2",
         "generation.max_new_tokens=4")  # fmt: skip
BASE = ("name=base", *SHAPE, *SHORT)
TUNED = ("name=tuned", "model=trained", f"model.overrides={json.dumps(BASE)}", "lora=small", *SHORT,
         "hardware=cpu", "launch.threads=1")  # fmt: skip
PACKED = ("quantize=int4", "quantize.group_size=32", "quantize.speed_tokens=2")
FUSED = ("name=one", *SHAPE, *SHORT, "lora=small", "fuse.after_training=true",
         "fuse.new_tokens=2", "fuse.probe_rows=0", "fuse.probe_tokens=32", "evaluation.samples=0",
         "hardware=cpu", "launch.threads=1")  # fmt: skip


def states(outcome: ChainOutcome) -> dict[str, str]:
    return {entry.name: entry.state for entry in outcome.stages}


def mlflow_runs(folder: Path) -> dict[str, dict[str, Any]]:
    """Name -> status, parent's name and figures of every run in a folder's store."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    experiments = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(experiments)
    names = {run.info.run_id: run.info.run_name for run in runs}
    return {
        run.info.run_name: {
            "status": run.info.status,
            "parent": names.get(run.data.tags.get("mlflow.parentRunId")),
            "figures": run.data.metrics,
            "files": [file.path for file in client.list_artifacts(run.info.run_id)],
        }
        for run in runs
    }


@pytest.fixture(scope="module")
def chained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Plan, ChainOutcome]]:
    """A chain of four stages that was run once; its folder is the working folder."""
    folder = tmp_path_factory.mktemp("chain")
    with chdir(folder):
        plan = compile_plan(FUSED)
        yield plan, run_chain(plan, quiet=True)


# -- which stages ------------------------------------------------------------------------------


def told(*overrides: str, **ends: Any) -> dict[str, str | None]:
    return {link.name: link.left_out for link in links(compile_plan(overrides), **ends)}


def test_stages_that_the_plan_does_not_ask_for_are_left_out_with_a_reason(work: Path):
    assert told("hardware=cpu") == {
        "prepare": None,
        "train": None,
        "evaluate": None,
        "fuse": "the run trains no adapter",
        "quantize": "quantize=none",
        "answers": "nothing is made of the trained model",
    }
    assert told("hardware=cpu", "lora=small")["fuse"] == "fuse.after_training=false"
    assert told("hardware=cpu", "data.eval_fraction=0", "evaluation=end")["evaluate"] == (
        "no rows are held out"
    )
    unasked = told("hardware=cpu", "data.eval_fraction=0", "evaluation=end", "lora=small",
                   "fuse.after_training=true")  # fmt: skip
    assert (unasked["fuse"], unasked["answers"]) == (None, "no rows are held out")


def test_what_was_measured_without_perplexity_is_not_measured_again(work: Path):
    plan = compile_plan(["hardware=cpu"])
    run = RunFolder.create(plan)
    run.write_json("evaluation.json", {"eval_loss": 0.69, "eval_rewards_margin": 0.1})
    done = do(Link("evaluate", "evaluate", plan), quiet=True)
    assert (done.code, done.reused, done.place) == (0, True, str(run.path / "evaluation.json"))


def test_the_run_that_trains_the_model_comes_first(work: Path):
    found = links(compile_plan(TUNED))
    assert [link.name for link in found][:4] == [
        "base: prepare", "base: train", "base: evaluate", "prepare",
    ]  # fmt: skip
    assert [link.plan.name for link in found][:4] == ["base", "base", "base", "tuned"]
    inner = json.dumps(["model=trained", f"model.overrides={json.dumps(BASE)}", "name=middle"])
    deep = links(compile_plan([TUNED[0], "model=trained", f"model.overrides={inner}", *TUNED[3:]]))
    names = [link.name for link in deep]
    assert (names[0], names[3], names[6]) == ("base of base: prepare", "base: prepare", "prepare")


def test_from_and_to(work: Path):
    found = told(*FUSED, start="train", end="evaluate")
    assert [name for name, why in found.items() if why is None] == ["train", "evaluate"]
    assert found["prepare"] == "before --from train"
    assert found["fuse"] == "after --to evaluate"


@pytest.mark.parametrize(
    ("command", "code", "hint"),
    [
        ("run --from fuse --to train hardware=cpu", "LF980", "--from train --to fuse"),
        ("run --to quantize hardware=cpu", "LF981", "quantize=gptq"),
        ("run --to fuse lora=small hardware=cpu", "LF981", "fuse.after_training=true"),
        ("run --from fuse lora=small fuse.after_training=true hardware=cpu", "LF984",
         "--from train"),
    ],
)  # fmt: skip
def test_refusals(llmforge: Callable, command: str, code: str, hint: str):
    ran = llmforge(f"{command} tracking=none")
    assert ran.code == 2
    assert f"error[{code}]" in ran.err
    assert f"hint: {hint}" in ran.err
    assert not Path("runs").exists(), "nothing was begun"


def test_what_follows_on_a_job_needs_its_end(work: Path):
    pytest.importorskip("submitit")
    job = ("launch=slurm", "launch.executor=local", "launch.wait=false")
    with pytest.raises(ConfigRefused) as refusal:
        run_chain(compile_plan(["hardware=cpu", "tracking=none", *job]), quiet=True)
    [found] = refusal.value.diagnostics
    assert (found.code, found.hint) == ("LF456", "launch.wait=true")
    assert not Path("runs").exists()


def test_no_room_is_told_before_the_first_stage(work: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("llmforge.run.making.clearance.free_memory", lambda: 2**20)
    with pytest.raises(ConfigRefused) as refusal:
        run_chain(compile_plan([*FUSED, "tracking=none"]), quiet=True)
    assert [d.code for d in refusal.value.diagnostics] == ["LF946"]
    assert not Path("runs").exists()


# -- done, found, recorded ---------------------------------------------------------------------


def test_every_stage_is_done(chained: tuple[Plan, ChainOutcome]):
    plan, outcome = chained
    assert outcome.exit_code == 0
    assert outcome.found == ()
    assert states(outcome) == {
        "prepare": "done",
        "train": "done",
        "evaluate": "done",
        "fuse": "done",
        "quantize": "left out",
        "answers": "left out",
    }
    by_name = {entry.name: entry for entry in outcome.stages}
    assert by_name["train"].figures["steps"] == 4
    assert by_name["evaluate"].figures["perplexity"] > 1
    assert by_name["fuse"].figures["size"] > 0
    assert Path(by_name["fuse"].place) == (plan.run_folder / "fused").absolute()
    kept = json.loads((plan.run_folder / NAME).read_text())
    assert kept["status"] == "finished"
    assert [Entry(**each) for each in kept["stages"]] == list(outcome.stages)


def test_the_second_time_everything_is_found(chained: tuple[Plan, ChainOutcome]):
    began = time.monotonic()
    outcome = run_chain(compile_plan([*FUSED, "tracking=none"]), quiet=True)

    assert outcome.exit_code == 0
    assert set(states(outcome).values()) == {"found", "left out"}
    assert time.monotonic() - began < 10, "no worker was started"


def test_the_table(chained: tuple[Plan, ChainOutcome]):
    text = overview(chained[1].stages)
    assert "stage" in text.splitlines()[0]
    assert "measured with the training; perplexity" in text
    assert "left out" in text


def test_each_stage_is_a_child_of_one_run(chained: tuple[Plan, ChainOutcome]):
    plan, _ = chained
    found = mlflow_runs(Path.cwd())
    assert set(found) == {"one", plan.run_id, "prepare", "evaluate", "fuse"}
    assert {run["status"] for run in found.values()} == {"FINISHED"}
    assert found.pop("one")["parent"] is None
    assert {run["parent"] for run in found.values()} == {"one"}
    assert found["fuse"]["files"] == ["fuse.json"]
    assert found["evaluate"]["figures"]["perplexity"] > 1


def test_what_changes_what():
    """Only the stage whose settings changed, and those after it."""
    with_work = {"optimizer.lr=1e-4": ("train", "evaluate", "fuse", "quantize"),
                 "fuse.dtype=bfloat16": ("fuse", "quantize"),
                 "quantize=bnb_8bit": ("quantize",)}  # fmt: skip
    words = [word for word in FUSED if not word.startswith("fuse.after")]
    before = compile_plan([*words, "fuse.after_training=true"]).stages
    for change, expected in with_work.items():
        after = compile_plan([*words, "fuse.after_training=true", change]).stages
        assert tuple(name for name in before if before[name] != after[name]) == expected


# -- the whole of it, as a person runs it ------------------------------------------------------


def begun(*overrides: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-m", "llmforge", "run", *overrides]
    return subprocess.Popen(
        words, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("stage", "workers_too"),
    [("base: train", False), ("prepare", False), ("train", False), ("evaluate", True),
     ("fuse", False), ("quantize", False), ("quantize", True), ("answers", False)],
)  # fmt: skip
def test_a_chain_that_was_killed_goes_on(work: Path, stage: str, workers_too: bool):
    """The driver alone, whose worker then goes on by itself; or all of it."""
    if stage == "quantize":
        pytest.importorskip("compressed_tensors")
    more = PACKED if stage == "quantize" else ("fuse.after_training=true",)
    words = (*TUNED, *more)
    plan = compile_plan(words)
    if stage == "evaluate":
        trained_only(plan)
    driver = begun(*words)
    try:
        wait_for(plan, stage, driver)
        workers = children(driver.pid)
    finally:
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
    assert workers
    for worker in workers if workers_too else ():
        os.kill(worker, signal.SIGKILL)

    outcome = run_chain(compile_plan(words), lambda: compile_plan(words), quiet=True)

    assert outcome.exit_code == 0
    found = states(outcome)
    assert "found" in found.values() or stage == "base: train"
    assert set(found.values()) <= {"found", "done", "left out"}
    recorded = mlflow_runs(work)
    assert {run["status"] for run in recorded.values()} == {"FINISHED"}
    assert sum(run["parent"] is None for run in recorded.values()) == 1
    answers = json.loads((plan.run_folder / "answers.json").read_text())
    made = {"fused", "quantized"} if stage == "quantize" else {"fused"}
    assert set(answers["right"]) == {"adapter", *made}
    assert [path.name for path in plan.run_folder.iterdir() if ".making" in path.name] == []
    assert all(row["answers"]["adapter"] == row["answers"]["fused"] for row in answers["rows"])


def trained_only(plan: Plan) -> None:
    """As a training leaves it whose trainer measures nothing, so that `evaluate` has a worker."""
    assert run_chain(plan, lambda: plan, end="train", quiet=True).exit_code == 0
    run = RunFolder(plan.run_folder)
    result = {key: value for key, value in (run.result() or {}).items() if "eval_" not in key}
    run.write_json("result.json", result)


def children(process: int) -> list[int]:
    """Processes that a process has started."""
    told = Path(f"/proc/{process}/task/{process}/children").read_text(encoding="ascii")
    return [int(word) for word in told.split()]


def wait_for(plan: Plan, stage: str, driver: subprocess.Popen[bytes]) -> None:
    """Until a stage's worker has been at it for a moment."""
    run, deadline = RunFolder(plan.run_folder), time.monotonic() + 300
    while time.monotonic() < deadline:
        assert driver.poll() is None, "it ended too early"
        chain = run.read_json(NAME) or {"stages": []}
        if any(one["name"] == stage and one["state"] == "running" for one in chain["stages"]):
            time.sleep(4)
            return
        time.sleep(0.1)
    raise AssertionError(f"{stage} did not begin")


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_failed_stage_ends_the_chain_and_says_how_to_go_on(work: Path):
    words = [*FUSED, "tracking=none", "fuse.max_difference=0", "fuse.dtype=bfloat16"]
    outcome = run_chain(compile_plan(words), quiet=True)

    assert outcome.exit_code == 1
    assert states(outcome)["train"] == "done"
    assert states(outcome)["fuse"] == "failed"
    assert outcome.found[-1].code == "LF982"
    assert "the same command goes on with `fuse`" in outcome.found[-1].notes

    better = [word for word in words if not word.startswith("fuse.max")]
    outcome = run_chain(compile_plan(better), quiet=True)
    assert outcome.exit_code == 0
    assert (states(outcome)["train"], states(outcome)["fuse"]) == ("found", "done")
