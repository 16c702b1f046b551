"""What the runner costs a step: llmforge's worker against a bare PyTorch loop.

Same tiny model, same prepared samples, same collator, same order, same fused AdamW, same clipping
and schedule; float32 on the CPU (or whatever the plan says where a GPU is). The two run in turn in
one process, and each pair gives one difference. The worker's side is the real thing: Trainer,
callbacks, journal, and the tracker's thread writing to a local MLflow database.

Aim: at most 0.3 ms a step over the bare loop.

    python benchmarks/runner_overhead.py [steps] [pairs]
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback, get_scheduler, set_seed

import llmforge
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.run.folder import RunFolder
from llmforge.run.terminal import Screen
from llmforge.stages.prepare import prepare
from llmforge.stages.train import Recorder
from llmforge.track.mlflow import MlflowTracker

WARM = 20
"""Steps at the start of each side that are not counted."""


class Clock(TrainerCallback):
    """The end of each optimizer step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.ends.append(time.perf_counter())


def step_times(ends: list[float]) -> list[float]:
    """Milliseconds of each counted step."""
    return [1000 * (b - a) for a, b in zip(ends[WARM:], ends[WARM + 1 :], strict=False)]


def worker_side(plan: Any, prepared: Any, folder: Path) -> list[float]:
    """The Trainer with everything the worker hangs on it."""
    from llmforge.build.callbacks import (
        EpochOrder,
        EvaluationApart,
        LastStepCallback,
        ProgressCallback,
        StopCallback,
        TrackerCallback,
    )
    from llmforge.build.progress import Pace
    from llmforge.run.signals import StopFlag

    parts = build_parts(plan, prepared)
    run = RunFolder.create(plan)
    tracker = MlflowTracker()
    tracker.start(plan, run)
    recorder, pace = Recorder(run, tracker), Pace(1000.0)
    recorder.attempt(1, 0)
    clock = Clock()
    apart = EvaluationApart()
    callbacks = [
        LastStepCallback(),
        ProgressCallback(Screen(None), pace),
        TrackerCallback(recorder, pace),
        EpochOrder(),
        apart,
        StopCallback(StopFlag()),
        clock,
    ]
    trainer = build_trainer(plan, parts, folder, callbacks)
    apart.trainer = trainer
    set_seed(plan.settings["seed"])
    trainer.train()
    from llmforge.run.status import Status

    tracker.finish(Status.FINISHED, None)
    return step_times(clock.ends)


def bare_side(plan: Any, prepared: Any, order: list[list[int]]) -> list[float]:
    """What a careful person writes by hand."""
    parts = build_parts(plan, prepared)
    arguments = plan.lowered["training_arguments"]
    model = parts.model.train()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=arguments["learning_rate"], fused=True,
        betas=(arguments["adam_beta1"], arguments["adam_beta2"]),
        weight_decay=arguments["weight_decay"],
    )  # fmt: skip
    schedule = get_scheduler(
        arguments["lr_scheduler_type"], optimizer, arguments["warmup_steps"],
        arguments["max_steps"], arguments.get("lr_scheduler_kwargs"),
    )  # fmt: skip
    ends = []
    for batch in order:
        inputs = parts.collator([parts.train[i] for i in batch])
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), arguments["max_grad_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        ends.append(time.perf_counter())
    return step_times(ends)


def main() -> None:
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    pairs = int(sys.argv[2]) if len(sys.argv) > 2 else 5
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        plan = llmforge.compile(
            [
                "model.layers=2", "model.hidden=32", "model.intermediate=64", "data.rows=600",
                "trainer.epochs=null", f"trainer.max_steps={steps}", "trainer.global_batch=4",
                "evaluation=end", "checkpoint.every=null", "trainer.group_by_length=false",
                "data.shuffle=false",
            ]
        )  # fmt: skip
        prepared = prepare(plan)
        rows = list(range(len(prepared.train)))
        order = [[rows[(4 * s + k) % len(rows)] for k in range(4)] for s in range(steps)]
        differences, workers, bares = [], [], []
        for pair in range(pairs + 1):
            worker = statistics.median(worker_side(plan, prepared, Path(folder) / str(pair)))
            bare = statistics.median(bare_side(plan, prepared, order))
            if pair:  # the first pair warms caches up
                workers.append(worker)
                bares.append(bare)
                differences.append(worker - bare)
        print(f"{steps} steps, {pairs} pairs, {torch.get_num_threads()} threads, ms per step")
        print(f"bare loop  {statistics.median(bares):7.3f}   ({min(bares):.3f}-{max(bares):.3f})")
        print(f"worker     {statistics.median(workers):7.3f}   "
              f"({min(workers):.3f}-{max(workers):.3f})")  # fmt: skip
        ratio = statistics.median(w / b for w, b in zip(workers, bares, strict=True))
        print(f"over it    {statistics.median(differences):7.3f}   "
              f"({min(differences):.3f}-{max(differences):.3f}), ratio {ratio:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
