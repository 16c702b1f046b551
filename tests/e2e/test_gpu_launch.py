"""On two GPUs: `llmforge train num_gpus=2` by every launcher that is installed.

In: the built-in example with a model of 0.4 million parameters in float32, trained by the command a
user types. Out: losses beside those of one GPU, memory of each rank, what a killed rank and another
number of GPUs leave behind, and what `llmforge doctor --launch` says. Ways to shard are compared in
`tests/build/test_sharding.py` on CPUs, their speed in `benchmarks/scale.py`.

Run with `pytest -m gpu tests/e2e/test_gpu_launch.py`; LLMFORGE_GPU_TESTS_ON_CPU=1 rehearses it with
two CPU processes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from llmforge.run.folder import RunFolder
from llmforge.run.journal import history
from llmforge.stages.peaks import ALLOCATED, RESIDENT

GPUS = torch.cuda.device_count()
REHEARSED = GPUS < 2 and os.environ.get("LLMFORGE_GPU_TESTS_ON_CPU") == "1"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(600),
    pytest.mark.skipif(GPUS < 2 and not REHEARSED, reason="fewer than two CUDA devices"),
]

TWO = ("launch=torchrun", "launch.processes=2") if REHEARSED else ("num_gpus=2",)
CLOSE = 1e-3
"""Two GPUs sum gradients in another order, in float32, for twelve steps of a loss near 6."""

COMMON = (
    *(("hardware=cpu", "launch.threads=1") if REHEARSED else ()),
    *("tracking=none", "precision=float32", "data.rows=400", "data.max_cut_tokens=null"),
    *("trainer.epochs=null", "trainer.max_steps=12", "trainer.log_every=1"),
    *("trainer.global_batch=16", "trainer.micro_batch=4", "checkpoint.every=4"),
    *("evaluation.every=4", "evaluation.exact_match_rows=0", "evaluation.samples=0"),
)
SHAPE = (
    *("model.layers=2", "model.hidden=128", "model.intermediate=256", "model.heads=4"),
    *("model.kv_heads=2", "model.context=128", "tokenizer.vocabulary=300"),
)
LORA = ("model=folder", "lora=small", "lora.dropout=0", "optimizer.lr=0.001")
FAULT = """
import os, pathlib, signal
from transformers import TrainerCallback

class Fault(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        flag = pathlib.Path("fault.done")
        if int(os.environ["RANK"]) == 1 and state.global_step == 6 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""
SPEC = """
import llmforge

@llmforge.register("callback", "fault", "faulty_parts:Fault")
class FaultSpec(llmforge.CallbackSpec):
    pass
"""


@dataclass(frozen=True)
class Trained:
    """A run that ended well, read from its folder."""

    folder: RunFolder
    result: dict[str, Any]

    @property
    def losses(self) -> dict[int, float]:
        return history(self.folder.journal)["train_loss"]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all runs of this module are, so that data are prepared once."""
    return tmp_path_factory.mktemp("bench")


def llmforge(bench: Path, *words: str, seconds: int = 300) -> subprocess.CompletedProcess[str]:
    places = os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])
    return subprocess.run(
        [sys.executable, "-m", "llmforge", *words],
        cwd=bench, capture_output=True, text=True, timeout=seconds, check=False,
        env=os.environ | {"PYTHONPATH": places},
    )  # fmt: skip


@pytest.fixture(scope="module")
def train(bench: Path) -> Callable[..., Trained]:
    """`train("num_gpus=2", "name=two")`: by the command line, to its end."""

    def run(*words: str) -> Trained:
        shape = () if "model=folder" in words else SHAPE
        done = llmforge(bench, "train", *COMMON, *shape, *words)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
        name = next(word for word in words if word.startswith("name="))[5:]
        folder = RunFolder(next((bench / "runs").glob(f"{name}-*")))
        result = folder.read_json("result.json")
        assert result
        return Trained(folder, result)

    return run


@pytest.fixture(scope="module")
def alone(train: Callable[..., Trained]) -> Trained:
    """One GPU, once for all tests."""
    return train("name=alone")


def test_the_node_is_fit_for_it(bench: Path) -> None:
    done = llmforge(bench, "doctor", "--launch", *COMMON, *SHAPE, *TWO)

    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("GB/s") == 2
    if not REHEARSED:
        assert torch.cuda.get_device_name(0).split()[-1] in done.stdout


@pytest.mark.parametrize(
    ("package", "words"),
    [
        ("torch", ()),
        ("torch", ("fsdp=full_shard",)),
        ("deepspeed", ("launch=deepspeed",)),
        ("deepspeed", ("launch=deepspeed", "deepspeed=stage2")),
        ("deepspeed", ("deepspeed=stage3",)),
        ("ray", ("launch=ray",)),
    ],
    ids=["torchrun", "fsdp", "deepspeed", "zero2", "zero3", "ray"],
)
def test_two_learn_what_one_does(
    train: Callable[..., Trained], alone: Trained, package: str, words: tuple[str, ...]
) -> None:
    if not find_spec(package):
        pytest.skip(f"{package} is not installed")
    launcher = [word for word in words if word.startswith("launch=")]
    two = [word for word in TWO if not (launcher and word.startswith("launch="))]
    name = "-".join(["two", *(word.replace("=", "-") for word in words)])
    trained = train(*two, *words, f"name={name}")

    assert len((trained.folder.read_json("nodes.json") or {})["ranks"]) == 2
    assert trained.losses == pytest.approx(alone.losses, abs=CLOSE)
    assert trained.result["eval_loss"] == pytest.approx(alone.result["eval_loss"], abs=CLOSE)
    held = trained.result["memory_by_rank"]
    assert [told["rank"] for told in held] == [0, 1]
    assert {told["kind"] for told in held} == {RESIDENT if REHEARSED else ALLOCATED}
    print(name, json.dumps(held))


def test_a_killed_rank_ends_the_other_and_all_begin_again(
    bench: Path, train: Callable[..., Trained], alone: Trained
) -> None:
    (bench / "faulty.py").write_text(SPEC, encoding="utf-8")
    (bench / "faulty_parts.py").write_text(FAULT, encoding="utf-8")
    torchrun = [*TWO, "launch=torchrun", "launch.max_restarts=1"]
    words = (*dict.fromkeys(torchrun), "plugins=[faulty]", "+callbacks.fault={kind: fault}")
    trained = train(*words, "name=killed")

    assert (bench / "fault.done").is_file()
    assert trained.folder.record().attempts == 2
    assert trained.losses == pytest.approx(alone.losses, abs=CLOSE)


@pytest.mark.parametrize("fewer", [False, True], ids=["1-2", "2-1"])
def test_another_number_goes_on(train: Callable[..., Trained], alone: Trained, fewer: bool) -> None:
    before, after = (TWO, ()) if fewer else ((), TWO)
    first = train(*before, f"name=before-{fewer}")
    last = first.folder.checkpoints()[0]
    shutil.rmtree(last.path)  # as if it had died before
    reshard = f"checkpoint.reshard={first.folder.path.name}"
    trained = train(*after, reshard, f"name=after-{fewer}")

    assert trained.result["resharded"]["step"] < 12
    assert trained.losses == pytest.approx(alone.losses, abs=CLOSE)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
@pytest.mark.parametrize("stage", ["stage2", "stage3"])
def test_zero_over_a_quantized_base(
    train: Callable[..., Trained], alone: Trained, bits: str, stage: str
) -> None:
    """The same losses as data parallelism over the same base."""
    if not (find_spec("deepspeed") and find_spec("bitsandbytes")):
        pytest.skip("deepspeed or bitsandbytes is not installed")
    base = (*LORA, f"model.path={alone.result['model']}", f"quantization={bits}")
    plain = train(*TWO, *base, f"name=plain-{bits}")
    sharded = train(*TWO, *base, f"deepspeed={stage}", f"name={stage}-{bits}")

    assert plain.losses[12] < plain.losses[1]
    assert sharded.losses == pytest.approx(plain.losses, abs=CLOSE)
