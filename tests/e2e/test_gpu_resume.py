"""On a CUDA device: a run that is stopped, killed and started again ends bit for bit as planned.

In: a small Llama and rows of words, made here; plans with `deterministic=true`. Out: final weights
and states of the loss scaling beside those of a run that nothing disturbed. In each mode one run is
asked to stop (SIGUSR1) in its sixth step, goes on, is killed (SIGKILL) in its eleventh, and goes on
from its eighth. What a CPU can show is in `test_resume_storm.py`.

Run with `pytest -m gpu tests/e2e/test_gpu_resume.py`; LLMFORGE_GPU_TESTS_ON_CPU=1 rehearses on a
CPU what one can do.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import llmforge
from llmforge.plan import Plan
from llmforge.run import checkpoints
from llmforge.run.environment import worker_environment
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status

CUDA = torch.cuda.is_available()
REHEARSED = os.environ.get("LLMFORGE_GPU_TESTS_ON_CPU") == "1"

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not (CUDA or REHEARSED), reason="no CUDA device"),
]

STOPPED_AT, KILLED_AT, EVERY, STEPS = 5, 10, 4, 12
"""Optimizer steps that are done when the signal comes, steps between saves, and of the run."""

ATTEMPT = r"""
import json, os, signal, sys, traceback
from pathlib import Path
import llmforge.build.trainer, llmforge.stages.evaluate, llmforge.stages.train
from llmforge.run import worker

def signalled(step, name):
    trainer = llmforge.build.trainer.ForgeTrainer
    original = trainer.training_step
    def training_step(self, *args, **kwargs):
        if self.state.global_step == step:
            os.kill(os.getpid(), getattr(signal, name))
        return original(self, *args, **kwargs)
    trainer.training_step = training_step

def attempt(path, step, name):
    log = os.open(path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    code = 99
    sys.stdin.readline()
    try:
        if name:
            signalled(step, name)
        code = worker.main([str(path)])
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)

attempt(Path(sys.argv[1]), *json.loads(sys.argv[2]))
"""
"""A process for each attempt, since libraries that have seen a device cannot be forked. It imports
them and waits until it is told to begin."""

COMMON = (
    *("data=jsonl", "data.train=rows.jsonl", "data.evaluation=held_out.jsonl", "tracking=none"),
    *("data.max_cut_tokens=100%", "data.require_end_token=false", "data.max_overlap=null"),
    *("trainer.epochs=null", f"trainer.max_steps={STEPS}", "trainer.global_batch=8"),
    *("trainer.micro_batch=4", "trainer.accumulation=2", "trainer.log_every=1"),
    *("collator.max_length=64", f"checkpoint.every={EVERY}", "evaluation.every=4"),
    *("evaluation.samples=0", "evaluation.exact_match_rows=0", "optimizer.lr=0.001"),
    "deterministic=true",
)
LORA = ("lora=small", "lora.dropout=0.3", "optimizer.lr=0.01")
PACKED = (
    *("collator=packed", "trainer.global_batch=4", "trainer.micro_batch=2"),
    "collator.max_length=256",
)
MODES: dict[str, tuple[str, ...]] = {
    "float16 with loss scaling": ("precision=float16",),
    "bfloat16 weights": ("precision=bfloat16", "precision.weights=bfloat16"),
    "LoRA over 4 bits": ("precision=bfloat16", *LORA, "quantization=4bit"),
    "LoRA over 8 bits": ("precision=bfloat16", *LORA, "quantization=8bit"),
    "paged 8-bit optimizer": ("precision=bfloat16", "optimizer=adamw_8bit"),
    "packed": ("precision=bfloat16", *PACKED),
    "gradient checkpointing": (
        *("precision=bfloat16", *LORA, "trainer.gradient_checkpointing=true"),
    ),
    "preference pairs": ("precision=bfloat16", *LORA, "trainer=dpo", "data.train=pairs.jsonl"),
}


@dataclass(frozen=True)
class Ends:
    """Two runs of one plan, both at their end."""

    whole: RunFolder
    run: RunFolder
    codes: list[int]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of 1.4 million parameters with random weights, and a tokenizer of whole words."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("model")
    ids = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3}
    ids |= {f"w{number}": 4 + number for number in range(40)}
    splitter = Tokenizer(WordLevel(ids, unk_token="<unk>"))
    splitter.pre_tokenizer = WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=splitter, bos_token="<s>", eos_token="</s>", pad_token="<pad>",
        unk_token="<unk>",
    ).save_pretrained(folder)  # fmt: skip
    torch.manual_seed(0)
    # heads of 64 and widths of 256: what the kernels and bitsandbytes want
    config = LlamaConfig(
        vocab_size=512, hidden_size=256, intermediate_size=512, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512,
        bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture
def plan_of(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`plan_of("packed")`: the plan of a mode, over rows of 20 to 80 words."""
    chance = random.Random(0)  # noqa: S311 - words of test rows, not a secret

    def words(least: int, most: int) -> str:
        count = chance.randrange(least, most)
        return " ".join(f"w{chance.randrange(40)}" for _ in range(count))

    def write(name: str, rows: list[dict[str, str]]) -> None:
        (tmp_path / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("rows.jsonl", [{"text": words(20, 80)} for _ in range(160)])
    write("held_out.jsonl", [{"text": words(20, 80)} for _ in range(8)])
    pairs = [
        {"prompt": words(4, 9), "chosen": f" {words(8, 40)}", "rejected": f" {words(8, 40)}"}
        for _ in range(160)
    ]
    write("pairs.jsonl", pairs)
    write("held_out_pairs.jsonl", pairs[:8])
    monkeypatch.chdir(tmp_path)

    def make(mode: str) -> Plan:
        asked = [*COMMON, *MODES[mode]]
        if "trainer=dpo" in asked:
            asked.append("data.evaluation=held_out_pairs.jsonl")
        return llmforge.compile(["model=folder", f"model.path={model}", *asked])

    return make


def folder_of(plan: Plan, parent: Path) -> RunFolder:
    run = RunFolder(parent / plan.run_id)
    run.path.mkdir(parents=True)
    plan.save(run.plan_file)
    return run


def attempts(plan: Plan, parent: Path) -> Ends:
    """The undisturbed run, and the one that is stopped, killed and started again."""
    whole, run = folder_of(plan, parent / "whole"), folder_of(plan, parent / "run")
    script = parent / "attempt.py"
    script.write_text(ATTEMPT, encoding="utf-8")
    environment = worker_environment(plan, 1, quiet=True)
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(Path(llmforge.__file__).parents[1]), *sys.path]
    )
    signals = [(STOPPED_AT, "SIGUSR1"), (KILLED_AT, "SIGKILL"), (0, None)]
    asked = [(whole, (0, None)), *((run, signal) for signal in signals)]
    waiting = [
        subprocess.Popen(
            [sys.executable, str(script), str(folder.path), json.dumps(signal)],
            stdin=subprocess.PIPE,
            env=environment,
        )
        for folder, signal in asked
    ]
    codes = []
    for process in waiting:
        process.communicate(b"begin\n")
        codes.append(process.returncode)
    return Ends(whole, run, codes)


def weights(run: RunFolder) -> dict[str, bytes]:
    return {
        path.relative_to(run.model).as_posix(): path.read_bytes()
        for path in sorted(run.model.rglob("*.safetensors"))
    }


def apart(ends: Ends) -> dict[str, float]:
    """Tensors of the final models that differ, and by how much."""
    found = {}
    for name in weights(ends.whole):
        one, other = load_file(ends.whole.model / name), load_file(ends.run.model / name)
        for key, value in one.items():
            if not torch.equal(value, other[key]):
                found[key] = (value.double() - other[key].double()).abs().max().item()
    return found


def test_modes_need_no_package_that_is_missing() -> None:
    assert find_spec("bitsandbytes")
    assert find_spec("trl")


@pytest.mark.parametrize("mode", MODES)
def test_it_ends_with_the_weights_of_an_undisturbed_run(
    plan_of: Any, tmp_path: Path, mode: str
) -> None:
    if not CUDA and mode in ("float16 with loss scaling", "paged 8-bit optimizer"):
        pytest.skip("a CPU has no loss scaling, and no paged memory")
    plan = plan_of(mode)
    ends = attempts(plan, tmp_path / "runs")

    log = ends.run.log().read_text(encoding="utf-8")
    assert ends.codes == [0, 130, -9, 0], f"{ends.codes}\n{log[-5000:]}"
    assert f"stopped (SIGUSR1); state saved at step {STOPPED_AT}" in log, "within a step"
    assert [f"going on after step {step} " in log for step in (STOPPED_AT, 8)] == [True, True]
    assert ends.run.status() is Status.FINISHED
    assert weights(ends.whole)
    assert weights(ends.run) == weights(ends.whole), apart(ends)
    for key in ("steps", "eval_loss", "train_loss"):
        assert ends.run.result()[key] == ends.whole.result()[key], key
    assert all(checkpoints.verify(kept) is None for kept in ends.run.checkpoints())
    print(f"{mode}: {plan.lowered['training_arguments'].get('optim')}, weights equal")


@pytest.mark.skipif(not CUDA, reason="a CPU has no loss scaling")
def test_the_loss_scaling_goes_on_where_it_stood(plan_of: Any, tmp_path: Path) -> None:
    """Scale, and how many steps in a row have not overflowed: begun anew it would count from 0."""
    ends = attempts(plan_of("float16 with loss scaling"), tmp_path / "runs")
    assert ends.codes == [0, 130, -9, 0], ends.run.log().read_text()[-5000:]
    states = []
    for run in (ends.whole, ends.run):
        newest = run.checkpoints()[0]
        assert newest.step == STEPS
        states.append(torch.load(newest.path / "scaler.pt", weights_only=True))
    print(f"loss scaling at the end: {states[1]}")
    assert states[0] == states[1]
    assert states[1]["_growth_tracker"] > STEPS - 2 * EVERY, "more than since the last resume"
