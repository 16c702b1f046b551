"""What comes after training, at the size of a published model: fuse and quantize, time and memory.

A Llama of the shape asked for with random weights in bfloat16, and a LoRA over all of its linear
layers, are made on the spot. Each part runs in a process of its own under a time limit, and its
figures are written to OUT/results.json as soon as it ends, so that a run that is cut short leaves
what it had.

    python benchmarks/after_training.py --device cuda --shape 8b --layers 8 --out DIR
    python benchmarks/after_training.py --device cpu --shape tiny --layers 2 --out DIR

Random weights say nothing of quality; `relative_change` only shows that what was written is the
model it was made of. `--layers` fewer than the shape has scale time and memory of the blocks.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

SHAPES = {
    "8b": {"hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256, "num_hidden_layers": 32},
    "tiny": {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4,
             "num_key_value_heads": 2, "vocab_size": 320, "num_hidden_layers": 2},
}  # fmt: skip
"""The first is that of Llama 3 8B."""

HEAD = """
import json, resource, sys, time
from pathlib import Path
import torch
asked = json.loads(sys.argv[1])
out, device = Path(asked["out"]), asked["device"]
base, adapter, fused, packed = (out / name for name in ("base", "adapter", "fused", "gptq"))

def told(began, **more):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    found = {"seconds": round(time.monotonic() - began, 2), "peak_cpu_bytes": peak, **more}
    if device == "cuda":
        found["peak_gpu_bytes"] = torch.cuda.max_memory_allocated()
    print("FIGURES " + json.dumps(found), flush=True)

def size(folder):
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
"""

MAKE = """
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM
began = time.monotonic()
torch.manual_seed(0)
torch.set_default_dtype(torch.bfloat16)
config = AutoConfig.for_model("llama", max_position_embeddings=8192, **asked["shape"])
with torch.device(device):
    model = AutoModelForCausalLM.from_config(config)
model.save_pretrained(base)
lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM",
                  init_lora_weights=False)
get_peft_model(model, lora).save_pretrained(adapter)
told(began, bytes=size(base), parameters=sum(p.numel() for p in model.parameters()))
"""

FUSE = """
from llmforge.build.fusing.merge import fuse
began = time.monotonic()
made = fuse(base, adapter, fused, shard_size="5GB")
told(began, way=made.way, modules=made.modules, bytes=size(fused))
"""

QUANTIZE = """
from types import SimpleNamespace
from llmforge.build.quantizing.figures import size_on_disk
from llmforge.build.quantizing.work import Work
from llmforge.build.quantizing.gptq import gptq
from llmforge.schema.quantize import QuantizeGptq

generator = torch.Generator().manual_seed(0)
rows = asked["shape"]["vocab_size"]
samples = torch.randint(0, rows, (asked["samples"], asked["length"]), generator=generator).tolist()
spec = QuantizeGptq.model_validate({
    "kind": "gptq", "folder": None, "dtype": "auto", "max_perplexity_growth": None,
    "shard_size": "5GB", "evaluation_rows": None, "compare_tokens": 0, "speed_tokens": 0,
    "bits": 4, "group_size": asked["group"], "symmetric": True, "activation_order": False,
    "damping": 0.1, "backend": "auto", "kernel": "torch",
    "calibration": {"source": "run", "data": [], "texts": [], "samples": asked["samples"],
                    "length": asked["length"]},
})
# random weights have no tokenizer, and no plan was needed to make them
tokenizer = SimpleNamespace(save_pretrained=lambda folder: None)
plan = SimpleNamespace(spec=SimpleNamespace(quantize=spec),
                       settings={"hardware": {"device": device}})
packed.mkdir()
began = time.monotonic()
made = gptq(Work(plan, fused, packed, tokenizer, samples, lambda text: print(text, flush=True)))
told(began, layers=made.modules, bytes_before=size_on_disk(fused),
     bytes_after=size_on_disk(packed),
     mean_error=sum(made.errors.values()) / max(1, len(made.errors)),
     not_calibrated=len(made.fell_back))
"""

READ = """
from transformers import AutoModelForCausalLM
began = time.monotonic()
ids = torch.arange(5, 37, device=device)[None]
found = []
speeds = []
for folder in (fused, packed):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", device_map={"": device})
    with torch.no_grad():
        found.append(model(ids).logits[0].float().cpu())
        model.generate(ids, max_new_tokens=4, min_new_tokens=4, do_sample=False, pad_token_id=0)
        start = time.monotonic()
        model.generate(ids, max_new_tokens=64, min_new_tokens=64, do_sample=False, pad_token_id=0)
        speeds.append(64 / (time.monotonic() - start))
    kernel = type(model.model.layers[0].self_attn.q_proj).__name__
    del model
one, two = found
told(began, relative_change=float((one - two).norm() / one.norm()), kernel=kernel,
     tokens_per_second_before=speeds[0], tokens_per_second_after=speeds[1])
"""

PARTS = {"make": MAKE, "fuse": FUSE, "quantize": QUANTIZE, "read": READ}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--shape", choices=tuple(SHAPES), default="tiny")
    parser.add_argument("--layers", type=int, help="default: as many as the shape has")
    parser.add_argument("--out", type=Path, required=True, help="an empty folder")
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--limit", type=int, default=300, help="seconds of each part")
    parser.add_argument("--parts", default=",".join(PARTS), help="in their order")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    shape = dict(SHAPES[given.shape])
    if given.layers:
        shape["num_hidden_layers"] = given.layers
    group = 128 if shape["hidden_size"] % 128 == 0 else 32
    asked = {"out": str(given.out.absolute()), "device": given.device, "shape": shape,
             "samples": given.samples, "length": given.length, "group": group}  # fmt: skip
    results: dict[str, object] = {"asked": asked}
    for name in given.parts.split(","):
        results[name] = found = part(HEAD + PARTS[name], json.dumps(asked), given.limit)
        text = json.dumps(results, indent=2) + "\n"
        (given.out / "results.json").write_text(text, encoding="utf-8")
        print(name, json.dumps(found), flush=True)
        if "failed" in found:
            return 1
    return 0


def part(code: str, asked: str, limit: int) -> dict[str, object]:
    """The figures of one part, or why there are none."""
    began = time.monotonic()
    try:
        ran = subprocess.run(
            [sys.executable, "-c", code, asked], capture_output=True, text=True, timeout=limit
        )
    except subprocess.TimeoutExpired:
        return {"failed": f"not done after {limit} s"}
    for line in ran.stdout.splitlines():
        if line.startswith("FIGURES "):
            whole = round(time.monotonic() - began, 2)
            return {**json.loads(line.removeprefix("FIGURES ")), "with_imports": whole}
    return {"failed": ran.stderr[-2000:]}


if __name__ == "__main__":
    sys.exit(main())
