"""One rank of `scale.py`: trains over random weights, and says what it measured.

In: a plan, a folder, and whether to die behind a checkpoint or to go on from one. Out: seconds per
step, losses, the highest memory of its GPU. Model, adapter, collator, trainer and optimizer are
built from the plan as `llmforge train` builds them.
"""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

STEPS, KEPT = 8, 4
"""Steps of a case, and the step behind which `resume` is killed."""
SKIPPED = 3
"""First steps, which are not timed: kernels are chosen and memory is taken."""


class Clock:
    """Seconds between the ends of optimizer steps, and the losses."""

    def __init__(self, torch: Any, kill_behind: int | None) -> None:
        self.torch, self.kill_behind = torch, kill_behind
        self.ends: list[float] = []
        self.losses: dict[int, float] = {}
        self.peak = 0

    def callback(self) -> Any:
        from transformers import TrainerCallback

        clock = self

        class Watching(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                del args, kwargs
                clock.stepped(state.global_step)
                control.should_save = clock.kill_behind is not None and (state.global_step == KEPT)

            def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                del args, control, kwargs
                if clock.kill_behind == state.global_step:
                    os.kill(os.getpid(), signal.SIGKILL)

            def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                del args, control
                logs = kwargs.get("logs") or {}
                if "loss" in logs:
                    clock.losses[state.global_step] = float(logs["loss"])

        return Watching()

    def stepped(self, step: int) -> None:
        cuda = self.torch.cuda
        if cuda.is_available():
            cuda.synchronize()
            self.peak = max(self.peak, cuda.max_memory_allocated())
            if step == 1:
                self.peak = 0  # whole weights, before they were sharded, are another phase
                cuda.reset_peak_memory_stats()
        self.ends.append(time.perf_counter())


def rank_of_case(plan: Any, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """Train as one rank; returns what it measured."""
    import torch

    from llmforge import registry
    from llmforge.build.parts import Parts, data_collator
    from llmforge.build.trainer import build_trainer
    from llmforge.run.checkpoints import Keeper

    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    model = random_model(plan, torch)
    adapter = registry.component("lora", plan.spec.lora.kind)
    if adapter.builder is not None:
        model = adapter.load_builder()(plan, model)
    samples = random_samples(plan)
    parts = Parts(None, model, data_collator(plan, Padding()), samples, samples[:8], [])
    clock = Clock(torch, asked.get("kill_behind"))
    trainer = build_trainer(plan, parts, folder / "checkpoints", [clock.callback()])
    trainer.keep_with(Keeper(folder / "checkpoints", plan))
    trainer.args.logging_steps, trainer.args.save_strategy = 1, "no"
    trainer.train(resume_from_checkpoint=asked.get("resume_from"))
    seconds = [late - early for early, late in zip(clock.ends, clock.ends[1:], strict=False)]
    return {
        "engine": type(trainer.model_wrapped).__name__,
        "peak_bytes": clock.peak,
        "reserved_bytes": torch.cuda.max_memory_reserved() if torch.cuda.is_available() else 0,
        "seconds_per_step": seconds[SKIPPED - 1 :],
        "losses": clock.losses,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
    }


class Padding:
    """What a collator asks of a tokenizer."""

    pad_token_id = 0


def random_samples(plan: Any) -> list[dict[str, Any]]:
    """Rows of full length that can be learnt: a token is followed by one of four."""
    import numpy as np

    trainer, length = plan.settings["trainer"], plan.settings["collator"]["max_length"]
    generator = np.random.default_rng(0)
    successors = generator.integers(1, 250, (250, 4))
    samples = []
    for _ in range(trainer["global_batch"] * STEPS):
        ids = np.empty(length, dtype=np.int32)
        ids[0] = generator.integers(1, 250)
        for place, turn in enumerate(generator.integers(0, 4, length - 1)):
            ids[place + 1] = successors[ids[place], turn]
        samples.append({"input_ids": ids, "labels": ids})
    return samples


def random_model(plan: Any, torch: Any) -> Any:
    """The plan's model with the same random weights on every rank."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from llmforge.build.formats import hold_parts
    from llmforge.build.model import dtype_of
    from llmforge.build.quantized import pack

    lowered = plan.lowered["model"]
    shape = dict(lowered.get("config") or plan.settings["model"]["shape"])
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    options = {"attn_implementation": lowered["attn_implementation"]}
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config, dtype=dtype_of(lowered["dtype"]), **options
        )
    with torch.device(device):
        rotary = type(model.model.rotary_emb)(config=config)
    model.to_empty(device=device)
    model.model.rotary_emb = rotary  # what follows from the config is no weight
    model.tie_weights()
    for name, weight in model.named_parameters():
        if name.endswith("norm.weight"):
            weight.data.fill_(1.0)
        else:
            weight.data.normal_(std=0.02)
    if plan.lowered.get("quantization_config") is not None:
        model = pack(plan, model)
        model.model.rotary_emb = rotary
    return hold_parts(plan, model)
