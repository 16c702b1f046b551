"""Fusing an adapter, against PEFT's `merge_and_unload` and `save_pretrained` of the loaded model.

A Llama of random bfloat16 weights and a LoRA over all of its linear layers are made on the spot;
then each candidate merges them in a process of its own, in turn. Printed: wall time of the merge
(imports left out), the peak of the memory above what the imports took, and that against the size of
the model's weights.

    python benchmarks/fuse.py [size in GB] [rounds]
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

MAKE = """
import sys, torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
size, folder = float(sys.argv[1]), sys.argv[2]
wide = 1024
layer = 4 * wide * wide + 3 * wide * 4 * wide
layers = max(1, round((size * 1e9 / 2 - 2 * 32768 * wide) / layer))
config = AutoConfig.for_model("llama", num_hidden_layers=layers, hidden_size=wide,
    intermediate_size=4 * wide, num_attention_heads=16, num_key_value_heads=16, vocab_size=32768)
torch.set_default_dtype(torch.bfloat16)
model = AutoModelForCausalLM.from_config(config)
model.save_pretrained(folder + "/base")
lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM",
                  init_lora_weights=False)
get_peft_model(model, lora).save_pretrained(folder + "/adapter")
"""

HEAD = """
import json, resource, sys, threading, time
from pathlib import Path
base, adapter, target = (Path(sys.argv[1]) / name for name in ("base", "adapter", "fused"))

def now():
    # memory of the process's own; pages of mapped files can be dropped at any time
    lines = dict(row.split(":", 1) for row in open("/proc/self/status"))
    return int(lines["RssAnon"].split()[0]) * 1024

def watch():
    while not ended.is_set():
        seen.append(now())
        ended.wait(0.002)

seen, ended = [], threading.Event()
"""

OURS = """
from llmforge.build.fusing.merge import fuse
def merge():
    made = fuse(base, adapter, target, shard_size=sys.argv[2])
    assert made.way == "streamed"
"""

PEFT = """
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM
def merge():
    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    merged = PeftModel.from_pretrained(model, adapter).merge_and_unload()
    merged.save_pretrained(target, max_shard_size=sys.argv[2])
"""

TAIL = """
start = now()
thread = threading.Thread(target=watch); thread.start()
begun = time.perf_counter(); merge(); seconds = time.perf_counter() - begun
ended.set(); thread.join()
print("FOUND " + json.dumps({"seconds": seconds, "peak": max(seen) - start}))
"""

SHARD = "200MB"


def main() -> None:
    size = sys.argv[1] if len(sys.argv) > 1 else "1.5"
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    found: dict[str, list[dict[str, float]]] = {"llmforge": [], "PEFT": []}
    with tempfile.TemporaryDirectory() as folder:
        _run(MAKE, size, folder)
        weights = sum(path.stat().st_size for path in Path(folder, "base").glob("*.safetensors"))
        for _ in range(rounds):
            for name, code in (("llmforge", OURS), ("PEFT", PEFT)):
                said = _run(HEAD + code + TAIL, folder, SHARD)
                line = next(row for row in said.splitlines() if row.startswith("FOUND "))
                found[name].append(json.loads(line.removeprefix("FOUND ")))
    print(f"weights {weights / 1e9:.2f} GB, shards of {SHARD}, {rounds} rounds, medians")
    for name, runs in found.items():
        seconds = statistics.median(run["seconds"] for run in runs)
        peak = statistics.median(run["peak"] for run in runs)
        print(
            f"{name:<10} {seconds:7.1f} s   {peak / 1e9:5.2f} GB, {peak / weights:4.2f} x weights"
        )
    pairs = list(zip(found["llmforge"], found["PEFT"], strict=True))
    for what in ("seconds", "peak"):
        ratio = statistics.median(ours[what] / theirs[what] for ours, theirs in pairs)
        print(f"{what} against PEFT: {ratio:.2f} x")


def _run(code: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    return done.stdout


if __name__ == "__main__":
    main()
