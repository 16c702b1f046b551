"""Foretold against measured GPU memory: real shapes, random weights, llmforge's own trainer.

    python benchmarks/memory.py                      every case, one process each
    python benchmarks/memory.py --only 8b --parallel 4    as many at once as fit, at most 4
    python benchmarks/memory.py --case NAME          one case, in this process, as JSON

In: the cases below, each a name and overrides. Out: a table of the plan's prediction, the measured
`torch.cuda.max_memory_allocated`, and the error; `--out FILE` keeps the JSON. A case that runs out
of memory is a row too. Weights are drawn on the GPU, since drawing eight billion numbers on a CPU
takes longer than the steps that are measured; adapter, collator, trainer and optimizer are built
from the plan as `llmforge train` builds them.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

GIB = 2**30
ONE, EIGHT = "model=llama3_2_1b", "model=llama3_8b"
FULL = ("lora=none",)
LORA = ("lora=small", "lora.r=16", "lora.dropout=0")
FOUR, INT8 = ("quantization=4bit", *LORA), ("quantization=8bit", *LORA)
HALF = "precision.weights=bfloat16"
WHOLE, CHUNKED, LIGER = (f"trainer.loss_kernel={kind}" for kind in ("full", "chunked", "liger"))
ON, OFF = "trainer.gradient_checkpointing=true", "trainer.gradient_checkpointing=false"
PACKED = "collator=packed"


def _case(model: str, how: tuple[str, ...], rows: int, length: int, *more: str) -> tuple[str, ...]:
    batch = (f"trainer.micro_batch={rows}", f"collator.max_length={length}")
    return (model, *how, *batch, *more)


CASES: dict[str, tuple[str, ...]] = {
    # every weight trained: float32 masters under bfloat16 arithmetic
    "1b_full_512": _case(ONE, FULL, 8, 512, OFF, WHOLE),
    "1b_full_2048": _case(ONE, FULL, 4, 2048, OFF, CHUNKED),
    "1b_full_2048_liger": _case(ONE, FULL, 4, 2048, OFF, LIGER),
    "1b_full_2048_whole_ckpt": _case(ONE, FULL, 4, 2048, ON, WHOLE),
    "1b_full_2048_smoothed": _case(ONE, FULL, 2, 2048, OFF, WHOLE, "trainer.label_smoothing=0.1"),
    "1b_full_8192_ckpt": _case(ONE, FULL, 1, 8192, ON, LIGER),
    "1b_full_8192": _case(ONE, FULL, 1, 8192, OFF, WHOLE),
    "1b_full_2048_accumulated": _case(ONE, FULL, 2, 2048, OFF, WHOLE, "trainer.accumulation=2"),
    "1b_full_2048_packed": _case(ONE, FULL, 4, 2048, OFF, LIGER, PACKED),
    "1b_full_half_2048": _case(ONE, FULL, 4, 2048, OFF, HALF, WHOLE),
    "1b_full_half_512_ckpt": _case(ONE, FULL, 2, 512, ON, HALF, CHUNKED),
    "1b_full_8bit_adamw": _case(ONE, FULL, 1, 512, ON, HALF, "optimizer=adamw_8bit", WHOLE),
    "1b_full_8bit_adamw_on_gpu": _case(
        *(ONE, FULL, 1, 512, ON, HALF, "optimizer=adamw_8bit", "optimizer.paged=false", LIGER)
    ),
    "1b_full_float32": _case(ONE, FULL, 1, 1024, OFF, "precision=float32", WHOLE),
    "1b_full_adafactor": _case(ONE, FULL, 1, 512, ON, "optimizer=adafactor", LIGER),
    "1b_full_muon": _case(ONE, FULL, 1, 512, ON, "optimizer=muon", LIGER),
    "1b_full_lion": _case(ONE, FULL, 1, 512, ON, "optimizer=lion", CHUNKED),
    "8b_full_half_8bit_adamw": _case(EIGHT, FULL, 1, 2048, ON, HALF, "optimizer=adamw_8bit"),
    # LoRA on every linear module
    "1b_lora_512": _case(ONE, LORA, 8, 512, OFF, CHUNKED),
    "1b_lora_8192": _case(ONE, LORA, 2, 8192, OFF, LIGER),
    "1b_lora_8192_ckpt": _case(ONE, LORA, 2, 8192, ON, LIGER),
    "8b_lora_512": _case(EIGHT, LORA, 8, 512, OFF, LIGER),
    "8b_lora_2048": _case(EIGHT, LORA, 2, 2048, OFF, WHOLE),
    "8b_lora_2048_chunked": _case(EIGHT, LORA, 2, 2048, OFF, CHUNKED),
    "8b_lora_2048_dropout": _case(EIGHT, LORA, 2, 2048, OFF, "lora.dropout=0.1", LIGER),
    "8b_lora_2048_ckpt": _case(EIGHT, LORA, 8, 2048, ON, LIGER),
    "8b_lora_8192": _case(EIGHT, LORA, 1, 8192, OFF, CHUNKED),
    "8b_lora_8192_ckpt": _case(EIGHT, LORA, 2, 8192, ON, CHUNKED),
    "8b_lora_8192_whole_ckpt": _case(EIGHT, LORA, 1, 8192, ON, WHOLE),
    "8b_lora_4096_packed": _case(EIGHT, LORA, 1, 4096, OFF, PACKED, LIGER),
    "8b_lora_4096_packed_ckpt": _case(EIGHT, LORA, 4, 4096, ON, PACKED, LIGER),
    "8b_lora_2048_neftune": _case(EIGHT, LORA, 2, 2048, ON, "trainer.neftune_alpha=5", LIGER),
    "8b_dora_2048_ckpt": _case(EIGHT, (*LORA, "lora.dora=true"), 2, 2048, ON, LIGER),
    # LoRA over 4-bit and 8-bit bases
    "1b_4bit_2048": _case(ONE, FOUR, 4, 2048, OFF, WHOLE),
    "8b_4bit_512_ckpt": _case(EIGHT, FOUR, 8, 512, ON, LIGER),
    "8b_4bit_2048": _case(EIGHT, FOUR, 2, 2048, OFF, CHUNKED),
    "8b_4bit_2048_lean": _case(EIGHT, FOUR, 2, 2048, ON, "precision.embeddings=weights"),
    "8b_4bit_8192_ckpt": _case(EIGHT, FOUR, 1, 8192, ON, CHUNKED),
    "8b_4bit_4096_packed_ckpt": _case(EIGHT, FOUR, 2, 4096, ON, PACKED, LIGER),
    "1b_8bit_2048": _case(ONE, INT8, 4, 2048, OFF, LIGER),
    "8b_8bit_2048": _case(EIGHT, INT8, 1, 2048, OFF, WHOLE),
    "8b_8bit_2048_ckpt": _case(EIGHT, INT8, 2, 2048, ON, LIGER),
    # other families
    "gemma2_2b_lora_1024": _case("model=gemma2_2b", LORA, 2, 1024, OFF, WHOLE),
    "gemma2_2b_lora_1024_chunked": _case("model=gemma2_2b", LORA, 2, 1024, OFF, CHUNKED),
    "qwen2_5_1_5b_lora_2048": _case("model=qwen2_5_1_5b", LORA, 4, 2048, OFF, LIGER),
    "qwen3_1_7b_lora_2048_ckpt": _case("model=qwen3_1_7b", LORA, 4, 2048, ON, LIGER),
    "phi3_mini_4bit_2048_ckpt": _case("model=phi3_mini", FOUR, 4, 2048, ON, WHOLE),
    "pythia_1b_full_2048": _case("model=pythia_1b", FULL, 4, 2048, OFF, CHUNKED),
    "opt_1_3b_lora_2048": _case("model=opt_1_3b", LORA, 4, 2048, OFF, CHUNKED),
    "1b_lora_2048_eager": _case(ONE, LORA, 2, 2048, OFF, CHUNKED, "model.attention=eager"),
    "8b_lora_2048_eager_ckpt": _case(EIGHT, LORA, 2, 2048, ON, LIGER, "model.attention=eager"),
    "qwen3_30b_a3b_lora_1024_ckpt": _case("model=qwen3_30b_a3b", LORA, 2, 1024, ON, LIGER),
    "gpt_neo_1_3b_lora_1024": _case("model=gpt_neo_1_3b", LORA, 4, 1024, OFF, CHUNKED),
}

SURROUNDINGS = {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}
"""As `llmforge/run/environment.py` sets it for a worker."""

COMMON = (
    "tracking=none",
    "trainer.epochs=null",
    "trainer.max_steps=3",
    "trainer.global_batch=auto",
    "trainer.group_by_length=false",
    "evaluation=end",
    "evaluation.samples=0",
    "evaluation.exact_match_rows=0",
    "checkpoint.every=null",
)


def measure(name: str, device: str = "h200") -> dict[str, Any]:
    """Run one case in this process."""
    import torch

    with tempfile.TemporaryDirectory() as folder:
        plan = _plan(name, device, folder)
        found = _train(plan, Path(folder), torch)
    return {"case": name, **found, "predicted": plan.estimate["memory"]}


def _plan(name: str, device: str, folder: str) -> Any:
    from llmforge.compiler.passes import compile_plan

    rows = Path(folder, "rows.jsonl")
    rows.write_text('{"text": "a row that only makes the plan compile"}\n' * 64)
    data = ("data=jsonl", f"data.train={rows}", "data.eval_fraction=0.5")
    return compile_plan(
        [*CASES[name], *data, *COMMON, f"paths.runs={folder}", f"hardware={device}"]
    )


class Budget:
    """Cases at once on one GPU: as many as the device has room for by what is foretold."""

    def __init__(self, device: str) -> None:
        self._device, self._free, self._whole = device, 0.0, 0.0
        self._changed = threading.Condition()

    def needs(self, names: Sequence[str]) -> dict[str, float]:
        """GiB of each case, those that measure the most first."""
        found = {}
        with tempfile.TemporaryDirectory() as folder:
            for name in names:
                memory = _plan(name, self._device, folder).estimate["memory"]
                self._free = self._whole = memory["available_bytes"] / GIB - 4
                found[name] = 1.1 * memory["peak_bytes"] / GIB + 2
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def run(self, name: str, need: float) -> dict[str, Any]:
        """Wait for room, run the case, give the room back."""
        need = min(need, self._whole)
        with self._changed:
            self._changed.wait_for(lambda: self._free >= need)
            self._free -= need
        try:
            return _run(name, self._device)
        finally:
            with self._changed:
                self._free += need
                self._changed.notify_all()


def _train(plan: Any, folder: Path, torch: Any) -> dict[str, Any]:
    from llmforge import registry
    from llmforge.build.parts import Parts, data_collator
    from llmforge.build.trainer import build_trainer

    marks = Marks(torch)
    found: dict[str, Any] = {"device": torch.cuda.get_device_name() if marks.gpu else "cpu"}
    try:
        with marks.during("load"):
            model = _model(plan, torch)
        adapter = registry.component("lora", plan.spec.lora.kind)
        if adapter.builder is not None:
            with marks.during("adapter"):
                model = adapter.load_builder()(plan, model)
        samples = _samples(plan)
        collator = data_collator(plan, _Padding())
        parts = Parts(None, model, collator, samples, samples[: len(samples) // 2], [])
        trainer = build_trainer(plan, parts, folder, [])
        marks.watch(trainer)
        trainer.train()
        with marks.during("evaluation"):
            trainer.evaluate()
    except torch.OutOfMemoryError as error:
        found["out_of_memory"] = str(error).partition(".")[0]
    return {**found, **marks.result()}


class _Padding:
    pad_token_id = 0


class Marks:
    """Highest allocated and then held memory of each part of a step, in bytes."""

    def __init__(self, torch: Any) -> None:
        self._torch, self.gpu = torch, torch.cuda.is_available()
        self.peak: dict[str, int] = {}
        self.after: dict[str, int] = {}
        self._reserved = 0

    def during(self, name: str) -> Any:
        marks = self

        class Part:
            def __enter__(self) -> None:
                if marks.gpu:
                    marks._torch.cuda.synchronize()
                    marks._torch.cuda.reset_peak_memory_stats()

            def __exit__(self, *_: object) -> None:
                if marks.gpu:
                    cuda = marks._torch.cuda
                    cuda.synchronize()
                    marks.peak[name] = max(marks.peak.get(name, 0), cuda.max_memory_allocated())
                    marks.after[name] = cuda.memory_allocated()
                    marks._reserved = max(marks._reserved, cuda.max_memory_reserved())

        return Part()

    def watch(self, trainer: Any) -> None:
        """Mark forward, backward and optimizer step of a trainer."""
        for owner, method, name in (
            (trainer, "compute_loss", "forward"),
            (trainer.accelerator, "backward", "backward"),
        ):
            setattr(owner, method, self._marked(getattr(owner, method), name))
        create = trainer.create_optimizer

        def created(*args: Any) -> Any:
            optimizer = create(*args)
            optimizer.step = self._marked(optimizer.step, "optimizer")
            return optimizer

        trainer.create_optimizer = created

    def _marked(self, function: Any, name: str) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            with self.during(name):
                return function(*args, **kwargs)

        # the scheduler asks the optimizer's method what it is bound to
        if hasattr(function, "__func__"):
            call.__func__, call.__self__ = function.__func__, function.__self__  # type: ignore[attr-defined]
        return call

    def result(self) -> dict[str, Any]:
        parts = ("forward", "backward", "optimizer")
        step = max((self.peak.get(part, 0) for part in parts), default=0)
        return {"peak": self.peak, "after": self.after, "step": step, "reserved": self._reserved}


def _samples(plan: Any) -> list[dict[str, Any]]:
    import numpy as np

    trainer, length = plan.settings["trainer"], plan.settings["collator"]["max_length"]
    count = trainer["global_batch"] * trainer["max_steps"]
    generator = np.random.default_rng(0)
    packed = plan.settings["collator"]["packing"] != "none"
    samples = []
    for _ in range(max(count, 2 * plan.settings["evaluation"]["micro_batch"])):
        ids = generator.integers(1, plan.facts["model"]["vocabulary"], length, dtype=np.int32)
        sample = {"input_ids": ids, "labels": ids}
        if packed:
            sample["segments"] = [length // 4] * 3 + [length - 3 * (length // 4)]
        samples.append(sample)
    return samples


def _model(plan: Any, torch: Any) -> Any:
    """The plan's model with random weights, drawn where it will be trained."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from llmforge.build.formats import hold_parts
    from llmforge.build.model import dtype_of
    from llmforge.build.quantized import pack

    shape = dict(plan.settings["model"]["shape"])
    config = AutoConfig.for_model(shape.pop("model_type"), **shape)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    lowered = plan.lowered["model"]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            config,
            dtype=dtype_of(lowered["dtype"]),
            attn_implementation=lowered["attn_implementation"],
        )
    model.to_empty(device=device)
    model.tie_weights()
    for weight in set(model.parameters()):
        weight.data.normal_(std=0.02)
    _buffers(model, torch, device)
    if plan.lowered.get("quantization_config") is not None:
        model = pack(plan, model)
        _buffers(model, torch, device)
    return hold_parts(plan, model)


def _buffers(model: Any, torch: Any, device: str) -> None:
    """What the config decides, such as rotary frequencies: sizes matter here, values do not."""
    for name, value in list(model.named_buffers()):
        if value.is_floating_point():
            owner, _, key = name.rpartition(".")
            model.get_submodule(owner).register_buffer(
                key, torch.ones_like(value, device=device), persistent=False
            )


# the table


def _run(name: str, device: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--case", name, "--device", device]
    environment = {
        **os.environ,
        "TRANSFORMERS_VERBOSITY": "error",
        "TOKENIZERS_PARALLELISM": "false",
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    for line in reversed(done.stdout.splitlines()):
        if line.startswith("{"):
            found: dict[str, Any] = json.loads(line)
            return found
    return {"case": name, "failed": (done.stderr or done.stdout)[-3000:]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--case", choices=list(CASES))
    parser.add_argument("--only", default="", help="cases whose names this pattern finds")
    parser.add_argument("--skip", default="^$", help="but not those")
    parser.add_argument("--parallel", type=int, default=1, help="cases at once on the one GPU")
    parser.add_argument("--device", default="h200", help="option of the group `hardware`")
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    if asked.case:
        print(json.dumps(measure(asked.case, asked.device)))
        return
    names = [n for n in CASES if re.search(asked.only, n) and not re.search(asked.skip, n)]
    results: list[dict[str, Any]] = []
    budget = Budget(asked.device)
    needs = budget.needs(names)
    with ThreadPoolExecutor(asked.parallel) as pool:
        for done in as_completed([pool.submit(budget.run, *item) for item in needs.items()]):
            results.append(done.result())
            print(_row(results[-1]), flush=True)
            if asked.out:
                asked.out.write_text(json.dumps(results, indent=1))
    errors = [abs(error) for found in results if (error := _error(found)) is not None]
    if errors:
        print(f"\nmedian error {statistics.median(errors):.1%}, largest {max(errors):.1%}")


def _error(found: dict[str, Any]) -> float | None:
    predicted = (found.get("predicted") or {}).get("peak_bytes")
    if not predicted or not found.get("step") or "out_of_memory" in found:
        return None
    return float(predicted / max(found["step"], found["peak"].get("evaluation", 0)) - 1)


def _row(found: dict[str, Any]) -> str:
    if "failed" in found:
        return f"| {found['case']} | failed | {found['failed'].splitlines()[-1:]} |"
    predicted = (found.get("predicted") or {}).get("peak_bytes", 0)
    error, told = _error(found), found.get("out_of_memory", "")
    measured = max(found["step"], found["peak"].get("evaluation", 0))
    return (
        f"| {found['case']} | {predicted / GIB:.2f} | {measured / GIB:.2f} | "
        f"{'' if error is None else f'{error:+.1%}'} | {told} |"
    )


if __name__ == "__main__":
    main()
