"""What training and fusing leave behind is read by plain libraries, where llmforge is not known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

READ = """
import json, sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "llmforge":
            raise ImportError("llmforge is not to be had here")

sys.meta_path.insert(0, Refuse())
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

kind, folder = sys.argv[1:]
if kind == "adapter":
    from peft import AutoPeftModelForCausalLM
    model = AutoPeftModelForCausalLM.from_pretrained(folder)
else:
    model = AutoModelForCausalLM.from_pretrained(folder)
tokenizer = AutoTokenizer.from_pretrained(folder)
chat = [{"role": "user", "content": "What is the capital of Italy?"}]
ids = tokenizer.apply_chat_template(
    chat, add_generation_prompt=True, return_tensors="pt", return_dict=False
)
def logits():
    with torch.no_grad():
        return model.eval()(ids).logits[0].double().tolist()

plain = None
if kind == "adapter":
    with model.disable_adapter():
        plain = logits()
stop = model.generation_config.eos_token_id
try:
    import llmforge
except ImportError:
    imported = "llmforge" in sys.modules
else:
    imported = True
print("FOUND " + json.dumps({
    "ids": ids[0].tolist(), "logits": logits(), "plain": plain, "stop": stop, "imported": imported,
    "dtype": str(model.dtype), "peft": type(model).__name__.startswith("Peft"),
}))
"""


def read(kind: str, folder: Path) -> dict[str, Any]:
    """What a process that cannot import llmforge makes of a folder."""
    away = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", READ, kind, str(folder)],
        cwd=folder, env={**away, "HF_HUB_OFFLINE": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    (line,) = [row for row in done.stdout.splitlines() if row.startswith("FOUND ")]
    found: dict[str, Any] = json.loads(line.removeprefix("FOUND "))
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The final folder of a LoRA run over a base from scratch, on the built-in example."""
    import torch

    from llmforge.build.load import save_final
    from llmforge.build.parts import build_parts
    from llmforge.compiler.passes import compile_plan
    from llmforge.stages.prepare import prepare

    folder = tmp_path_factory.mktemp("plain")
    before = Path.cwd()
    os.chdir(folder)
    try:
        plan = compile_plan(
            ["hardware=cpu", "tracking=none", "lora=small", "model.layers=2", "model.hidden=32",
             "model.intermediate=64", "model.heads=2", "model.kv_heads=2"]
        )  # fmt: skip
        parts = build_parts(plan, prepare(plan))
        torch.manual_seed(0)
        for name, weight in parts.model.named_parameters():
            if "lora_B" in name:
                weight.data.normal_(0, 0.1)
        save_final(plan, parts, folder / "model")
    finally:
        os.chdir(before)
    return folder / "model"


def test_the_adapter_and_the_fused_model_say_the_same(trained: Path, tmp_path: Path):
    from llmforge.build.fusing.merge import fuse

    fuse(trained / "base", trained, tmp_path / "fused")

    adapter, fused = read("adapter", trained), read("model", tmp_path / "fused")

    assert not adapter["imported"]
    assert not fused["imported"]
    assert (adapter["peft"], fused["peft"]) == (True, False)
    assert fused["ids"] == adapter["ids"], "the same chat template"
    stops = json.loads((trained / "generation_config.json").read_text())["eos_token_id"]
    assert fused["stop"] == stops
    assert apart(adapter["logits"], fused["logits"]) < 1e-4
    assert apart(adapter["plain"], fused["logits"]) > 1e-3, "the base says something else"


def apart(one: list[list[float]], two: list[list[float]]) -> float:
    """Largest difference of a logit."""
    return max(
        abs(a - b)
        for row, other in zip(one, two, strict=True)
        for a, b in zip(row, other, strict=True)
    )
