"""Runs that are killed and started again, against runs that nothing disturbed: a table.

    python benchmarks/resume.py [--modes full lora ...] [--no-times]

For each mode a tiny run is made once undisturbed; then, for each kill point, a run of the same plan
is SIGKILLed there and the same command is given again. Equal means: every weight file of the final
model has the same SHA-256. And the time to the first resumed step is measured for early and late
checkpoints: it must not grow with the step.

Attempts are forked from one process that has imported the libraries; runs of two processes go
through torchrun.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import torch

import llmforge.build.load
import llmforge.build.rehearsal
import llmforge.stages.evaluate
from llmforge import compile as compile_plan
from llmforge.build.trainer import ForgeTrainer
from llmforge.plan import Plan
from llmforge.run import sealing
from llmforge.run.folder import RunFolder
from llmforge.run.signals import StopFlag
from llmforge.stages.train import train
from llmforge.track.protocol import NullTracker

TINY = (
    *("name=resume", "tracking=none", "hardware=cpu", "launch.threads=1"),
    *("data.max_cut_tokens=null", "trainer.epochs=null", "trainer.max_steps=12"),
    *("trainer.log_every=1", "trainer.global_batch=8", "checkpoint.every=4"),
    *("evaluation.samples=0", "evaluation.exact_match_rows=0", "evaluation.every=4"),
    *("evaluation.at_start=false", "generation.max_new_tokens=4"),
)
SMALL = (
    *("model.layers=1", "model.hidden=64", "model.intermediate=64", "model.heads=2"),
    *("model.kv_heads=2", "model.context=128", "tokenizer.vocabulary=300"),
)
ROWS = ("data.rows=200", "data.max_train_rows=40", "data.max_eval_rows=8")
LORA = ("lora=small", "lora.r=2", "lora.dropout=0.5")
ONE = ("trainer.micro_batch=8", "trainer.accumulation=1")

MODES: dict[str, tuple[str, ...]] = {
    "full": (*SMALL, *ROWS, *ONE),
    "lora": (*SMALL, *ROWS, *ONE, *LORA),
    "accumulation 4": (*SMALL, *ROWS, "trainer.micro_batch=2", "trainer.accumulation=4"),
    "packed": (*SMALL, *ROWS, *ONE, "trainer.global_batch=2", "trainer.micro_batch=2",
               "collator.packing=best_fit"),
    "random order": (*SMALL, *ROWS, *ONE, "trainer.group_by_length=false"),
    "best kept": (*SMALL, *ROWS, *ONE, "checkpoint=best", "checkpoint.every=4"),
    "sharded weights": (*SMALL, *ROWS, *ONE, "checkpoint.max_shard_size=50KB"),
    "streaming": (*SMALL, *ONE, "data=jsonl", "data.streaming=true", "evaluation=end",
                  "evaluation.every=null", "data.eval_fraction=0"),
    "lora on 8 bit": ("model=folder", *ROWS, *ONE, *LORA, "quantization=8bit"),
    "lora on 4 bit": ("model=folder", *ROWS, *ONE, *LORA, "quantization=4bit"),
    "two processes": (*SMALL, *ROWS, *LORA, "launch=torchrun", "launch.processes=2",
                      "trainer.micro_batch=2", "trainer.accumulation=2"),
}  # fmt: skip

POINTS = ("in a step", "in an evaluation", "in a save", "in the final save")

HERE = Path(__file__).resolve()


def die() -> None:
    """As the kernel's OOM killer would have it."""
    os.kill(os.getpid(), signal.SIGKILL)


def die_in(place: Any, name: str, wanted: int) -> None:
    """Die at the `wanted`-th call of a function."""
    original, seen = getattr(place, name), [0]

    def counting(*args: Any, **kwargs: Any) -> Any:
        seen[0] += 1
        if seen[0] == wanted:
            die()
        return original(*args, **kwargs)

    setattr(place, name, counting)


def die_in_a_step() -> None:
    """In the step after the tenth, on every process."""
    original = ForgeTrainer.training_step

    def step(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self.state.global_step == 10:
            die()
        return original(self, *args, **kwargs)

    ForgeTrainer.training_step = step  # type: ignore[method-assign]


def die_in_a_save() -> None:
    """While the files of the second checkpoint are flushed, some done and some not."""
    original, count = sealing.flush, [0]

    def flush(path: Path) -> None:
        count[0] += ".checkpoint-8.tmp" in str(path)
        if count[0] == 4:
            die()
        original(path)

    sealing.flush = flush


def die_at_the_first_step() -> None:
    """And write down how long it took to come to it."""
    whole, began = ForgeTrainer.train, [0.0]

    def begin(self: Any, *args: Any, **kwargs: Any) -> Any:
        began[0] = time.monotonic()
        return whole(self, *args, **kwargs)

    def first(self: Any, *_args: Any, **_kwargs: Any) -> Any:
        place = Path(self.args.output_dir).parent / "seconds"
        place.write_text(str(time.monotonic() - began[0]))
        die()

    ForgeTrainer.train, ForgeTrainer.training_step = begin, first  # type: ignore[method-assign]


KILLS: dict[str, Callable[[], None]] = {
    "in a step": die_in_a_step,
    "in an evaluation": lambda: die_in(ForgeTrainer, "prediction_step", 2),
    "in a save": die_in_a_save,
    "in the final save": lambda: die_in(llmforge.build.load, "_swap", 1),
    "at the first step": die_at_the_first_step,
}


def attempt(run: RunFolder, point: str | None) -> None:
    """One attempt in this process."""
    torch.set_num_threads(1)
    if point:
        KILLS[point]()
    train(run.plan(), run, NullTracker(), StopFlag())


def forked(run: RunFolder, point: str | None = None) -> int:
    """One attempt; the exit code, negative for a signal."""
    if run.plan().settings["launch"]["kind"] == "torchrun":
        return launched(run, point)
    child = os.fork()
    if child == 0:
        log = os.open(run.log(), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        try:
            attempt(run, point)
        except BaseException:  # the child ends here, whatever it was
            import traceback

            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def launched(run: RunFolder, point: str | None) -> int:
    """One attempt of two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    with run.log().open("a") as log:
        return subprocess.run(
            [*command, str(HERE), "--attempt", str(run.path), point or ""],
            check=False,
            stdout=log,
            stderr=log,
            env=os.environ | {"PYTHONPATH": str(HERE.parents[1])},
        ).returncode


def digest(run: RunFolder) -> str:
    """Of all weights of the final model."""
    whole = hashlib.sha256()
    for path in sorted(run.model.rglob("*.safetensors")):
        whole.update(path.relative_to(run.model).as_posix().encode() + path.read_bytes())
    return whole.hexdigest()[:12]


def folder(plan: Plan, parent: Path) -> RunFolder:
    run = RunFolder(parent / plan.run_id)
    run.path.mkdir(parents=True)
    plan.save(run.plan_file)
    return run


def must(run: RunFolder, done: int) -> None:
    if done:
        raise SystemExit(f"{run.path} failed:\n{run.log().read_text()[-3000:]}")


def rows_of(mode: str, compiled: Callable[..., Plan], work: Path) -> list[tuple[str, ...]]:
    """Lines of the table: mode, kill point, what it went on from, digests, verdict."""
    plan = compiled(mode)
    whole = folder(plan, work / mode / "whole")
    must(whole, forked(whole))
    expected, found = digest(whole), []
    for point in POINTS:
        if point == "in an evaluation" and plan.settings["evaluation"]["every"] is None:
            continue
        run = folder(plan, work / mode / point)
        forked(run, point)
        if run.manifest.exists():
            raise SystemExit(f"{mode}: was not killed {point}")
        newest = next((c.step for c in run.checkpoints()), 0)
        must(run, forked(run))
        got = digest(run)
        same = "equal" if got == expected else "DIFFERENT"
        found.append((mode, point, f"step {newest}", expected, got, same))
    return found


def times(compiled: Callable[..., Plan], work: Path) -> list[tuple[str, ...]]:
    """Seconds until a resumed run of one long epoch takes its next step, by the step it is at.

    A checkpoint of step 10 is renamed to a later step, so that no thousands of steps are needed.
    """
    lengths = ("trainer.global_batch=1", "trainer.micro_batch=1", "trainer.max_steps=20000")
    often = ("checkpoint.every=5", "evaluation=end", "evaluation.every=null")
    found = []
    for mode in ("full", "streaming"):
        plan = compiled(mode, "data=jsonl", "data.eval_fraction=0", *lengths, *often)
        run = folder(plan, work / "times" / mode)
        forked(run, "in a step")
        start = run.checkpoints()[0]
        for step in (10, 1000, 10000):
            later = folder(plan, work / "times" / f"{mode} {step}")
            at = later.checkpoint_folder / f"checkpoint-{step}"
            shutil.copytree(start.path, at)
            state = json.loads((at / "trainer_state.json").read_text())
            (at / "trainer_state.json").write_text(json.dumps({**state, "global_step": step}))
            known = {key: value for key, value in sealing.facts(at).items() if key != "files"}
            sealing.seal(at, {**known, "step": step})
            forked(later, "at the first step")
            seconds = float((later.path / "seconds").read_text())
            found.append((mode, str(step), f"{seconds:.2f} s"))
    return found


def compiler(work: Path) -> Callable[..., Plan]:
    """`compiled(mode, ...)`: the plan of a mode; rows and base model are made when asked for."""
    rows = work / "rows.jsonl"
    rows.write_text("".join(json.dumps({"text": f"row {n} of many"}) + "\n" for n in range(20000)))

    def compiled(mode: str, *more: str) -> Plan:
        places = [f"paths.runs={work / 'runs'}", f"paths.cache={work / 'cache'}"]
        given = [*TINY, *MODES[mode], *more]
        if "data=jsonl" in given:
            places.append(f"data.train={rows}")
            given = [each for each in given if not each.startswith(("data.rows", "data.max_"))]
        if any(each.startswith("quantization=") for each in given):
            places.append(f"model.path={base(work, compiled)}")
        if "data.streaming=true" in given:
            places.append(f"tokenizer.source={tokenizer(work, compiled)}")
        return compile_plan([*given, *places])

    return compiled


def base(work: Path, compiled: Callable[..., Plan]) -> Path:
    """A model to quantize: what the undisturbed run of full training ends with."""
    run = RunFolder(work / "base" / compiled("full").run_id)
    if not run.manifest.exists():
        made = folder(compiled("full"), work / "base")
        must(made, forked(made))
    return run.model


def tokenizer(work: Path, compiled: Callable[..., Plan]) -> Path:
    """A tokenizer made before: streamed rows are not read for one."""
    return base(work, compiled)


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--modes", nargs="*", default=list(MODES))
    parser.add_argument("--no-times", action="store_true", help="the first table only")
    parser.add_argument("--attempt", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.attempt:
        attempt(RunFolder.open(arguments.attempt[0]), arguments.attempt[1] or None)
        return
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        compiled = compiler(work)
        print("| mode | killed | goes on from | undisturbed | resumed | weights |")
        print("|---|---|---|---|---|---|")
        for mode in arguments.modes:
            for line in rows_of(mode, compiled, work):
                print("| " + " | ".join(line) + " |", flush=True)
        if arguments.no_times:
            return
        print("\n| mode | resumed at step | until the next step begins |\n|---|---|---|")
        for line in times(compiled, work):
            print("| " + " | ".join(line) + " |", flush=True)


if __name__ == "__main__":
    main()
