"""A row that spoils a step is named: its file and line, the process, the micro batch, its loss.

One row of forty holds a character that no other has, and the model's embedding of it is made NaN
(or its gradient infinite) after the model is built; everything else is a run like any other.
"""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.plan import Plan
from llmforge.run.failures import diagnose
from llmforge.run.folder import RunFolder
from llmforge.run.signals import StopFlag
from llmforge.track.protocol import NullTracker

torch = pytest.importorskip("torch")

LINE = 23
"""Of the row that spoils its step."""


def poison(parts: Any, gradient: bool = False) -> Any:
    """Spoil what the model makes of the one character; also in the processes of `WORKER`."""
    import torch

    bad = parts.tokenizer.encode(" \u00a7", add_special_tokens=False)[-1]

    def spoil(_module: Any, inputs: Any, output: Any) -> Any:
        hit = (inputs[0] == bad).unsqueeze(-1)
        if gradient:
            if output.requires_grad:
                output.register_hook(lambda g: torch.where(hit, torch.inf, g))
            return output
        return torch.where(hit, torch.nan, output)

    parts.model.get_input_embeddings().register_forward_hook(spoil)
    return parts


WORKER = (
    "from typing import Any\n\n"
    + inspect.getsource(poison)
    + """
import sys
import torch
torch.set_num_threads(1)
from llmforge.build import parts as building
from llmforge.build.errors import NonFiniteLoss
from llmforge.run.folder import RunFolder
from llmforge.run.signals import StopFlag
from llmforge.stages.train import train
from llmforge.track.protocol import NullTracker
build = building.build_parts
building.build_parts = lambda *args: poison(build(*args))
run = RunFolder.open(sys.argv[1])
try:
    train(run.plan(), run, NullTracker(), StopFlag())
except NonFiniteLoss as fault:
    print("stopped:", fault, flush=True)
"""
)


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Forty rows, one of them spoiled."""
    path = tmp_path / "rows.jsonl"
    words = [f"the {['cat', 'dog', 'owl', 'fox'][n % 4]} has {n} stones" for n in range(40)]
    words[LINE - 1] += " \u00a7"
    path.write_text("".join(json.dumps({"text": word}) + "\n" for word in words), "utf-8")
    return path


@pytest.fixture
def plan_of(tiny: Callable[..., Plan], rows: Path) -> Callable[..., Plan]:
    """`plan_of("trainer.accumulation=4", ...)`: five steps an epoch, over all rows."""

    def make(*overrides: str) -> Plan:
        data = ("data=jsonl", f"data.train={rows}", "data.eval_fraction=0", "evaluation=end")
        return tiny(
            *("tracking=none", *data, "tokenizer.chat_template=auto", "evaluation.every=null"),
            *("evaluation.at_start=false", "trainer.max_steps=10", *overrides),
        )

    return make


def stopped(
    plan: Plan, folder: Path, monkeypatch: pytest.MonkeyPatch, gradient: bool = False
) -> tuple[Any, RunFolder]:
    """The fault of a run in this process."""
    from llmforge.build import parts
    from llmforge.build.errors import NonFiniteLoss
    from llmforge.stages.train import train

    build = parts.build_parts
    monkeypatch.setattr(parts, "build_parts", lambda *given: poison(build(*given), gradient))
    run = RunFolder(folder / plan.run_id)
    run.path.mkdir(parents=True)
    plan.save(run.plan_file)
    torch.set_num_threads(1)
    with pytest.raises(NonFiniteLoss) as caught:
        train(plan, run, NullTracker(), StopFlag())
    return caught.value, run


def places(batch: dict[str, Any]) -> list[str]:
    return [place for row in batch["rows"] for place in row["places"]]


@pytest.mark.parametrize(
    ("sizes", "of"),
    [
        (("trainer.micro_batch=8", "trainer.accumulation=1"), 1),
        (("trainer.micro_batch=2", "trainer.accumulation=4"), 4),
    ],
)
def test_the_row_is_named(plan_of, rows: Path, tmp_path: Path, monkeypatch, sizes, of) -> None:
    plan = plan_of(*sizes)
    fault, run = stopped(plan, tmp_path, monkeypatch)
    told = run.read_json("not_finite.json")
    assert (told["step"], told["what"]) == (fault.step, "loss is nan")
    [batch] = told["micro_batches"]
    assert (batch["rank"], batch["of"], batch["loss"]) == (0, of, "nan")
    assert 1 <= batch["micro_batch"] <= of
    assert len(batch["rows"]) == 8 // of
    [spoiled] = [row for row in batch["rows"] if row["loss"] == "nan"]
    assert spoiled["places"] == [f"{rows}:{LINE}"]
    finite = [row["loss"] for row in batch["rows"] if row is not spoiled]
    assert all(isinstance(loss, float) and loss > 0 for loss in finite)

    found = diagnose(fault, plan)
    assert found.code == "LF802"
    assert f"micro batch {batch['micro_batch']} of {of}, loss nan: {rows}:{LINE}" in found.notes[0]
    assert "not_finite.json" in found.notes[1]


def test_a_gradient_is_traced_to_its_micro_batch(
    plan_of, rows: Path, tmp_path: Path, monkeypatch
) -> None:
    plan = plan_of("trainer.micro_batch=2", "trainer.accumulation=4")
    fault, run = stopped(plan, tmp_path, monkeypatch, gradient=True)
    assert fault.what in ("gradient norm is inf", "gradient norm is nan")
    told = run.read_json("not_finite.json")
    [batch] = told["micro_batches"]
    assert f"{rows}:{LINE}" in places(batch)
    assert batch["gradient_norm"] in ("inf", "nan")
    assert isinstance(batch["loss"], float)


def test_packed_rows_name_all_that_is_in_them(
    plan_of, rows: Path, tmp_path: Path, monkeypatch
) -> None:
    sizes = ("trainer.global_batch=2", "trainer.micro_batch=1", "trainer.accumulation=2")
    plan = plan_of("collator.packing=best_fit", *sizes)
    _, run = stopped(plan, tmp_path, monkeypatch)
    [batch] = run.read_json("not_finite.json")["micro_batches"]
    [row] = batch["rows"]
    assert row["loss"] == "nan"
    assert len(row["places"]) > 1
    assert f"{rows}:{LINE}" in row["places"]


def test_streamed_rows_know_their_place(plan_of, rows: Path, tmp_path: Path, monkeypatch) -> None:
    tokenizer = plan_of()
    from llmforge.stages.prepare import prepare

    folder = prepare(tokenizer).tokenizer_folder
    plan = plan_of("data.streaming=true", f"tokenizer.source={folder}")
    _, run = stopped(plan, tmp_path, monkeypatch)
    [batch] = run.read_json("not_finite.json")["micro_batches"]
    spoiled = [row["places"] for row in batch["rows"] if row["loss"] == "nan"]
    assert spoiled == [[f"{rows}:{LINE}"]]


def test_the_next_attempt_forgets(plan_of, tmp_path: Path, monkeypatch) -> None:
    from llmforge.stages.train import train

    plan = plan_of()
    _, run = stopped(plan, tmp_path, monkeypatch)
    monkeypatch.undo()
    assert train(plan, run, NullTracker(), StopFlag())["steps"] == 10
    assert not (run.path / "not_finite.json").exists()


@pytest.mark.slow
def test_two_processes_tell_one_story(plan_of, rows: Path, tmp_path: Path) -> None:
    plan = plan_of(
        *("launch=torchrun", "launch.processes=2", "trainer.micro_batch=2"),
        "trainer.accumulation=2",
    )
    run = RunFolder(tmp_path / plan.run_id)
    run.path.mkdir(parents=True)
    plan.save(run.plan_file)
    (tmp_path / "worker.py").write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "worker.py"), str(run.path)],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("stopped: loss is nan at optimizer step") == 2, "both, at one step"
    told = json.loads((run.path / "not_finite.json").read_text())
    [batch] = told["micro_batches"]
    assert batch["rank"] in (0, 1)
    assert batch["of"] == 2
    spoiled = [row["places"] for row in batch["rows"] if row["loss"] == "nan"]
    assert spoiled == [[f"{rows}:{LINE}"]]
