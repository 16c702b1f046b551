"""An adapter merged into its base gives what base and adapter give, and PEFT's own merge."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoHaConfig,
    LoraConfig,
    PeftConfig,
    PeftModel,
    PromptTuningConfig,
    TrainableTokensConfig,
    VeraConfig,
    get_peft_model,
)
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llmforge.build.fusing.deltas import NotFusable
from llmforge.build.fusing.formats import NotFinite
from llmforge.build.fusing.merge import QuantizedBase, fuse

SOME = ["q_proj", "v_proj", "down_proj"]
TEXT = torch.randint(4, 280, (2, 20), generator=torch.Generator().manual_seed(3))
MakeAdapter = Callable[..., Path]


def lora(**changes: Any) -> LoraConfig:
    given = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM"}
    return LoraConfig(**given | changes)


KINDS: dict[str, tuple[str, PeftConfig]] = {
    "lora": ("llama", lora()),
    "rslora": ("qwen2", lora(use_rslora=True)),
    "dora": ("llama", lora(use_dora=True)),
    "ranks and scales of their own": (
        "llama", lora(rank_pattern={"q_proj": 8}, alpha_pattern={"v_proj": 32}),
    ),
    "every bias": ("qwen2", lora(bias="all")),
    "biases of adapted modules": ("opt", lora(bias="lora_only")),
    "whole norm": ("gemma", lora(modules_to_save=["norm"])),
    "tokens of a tied table": ("llama", lora(trainable_token_indices=[5, 6])),
    "tokens alone": ("llama", TrainableTokensConfig(token_indices=[5], task_type="CAUSAL_LM")),
    "Conv1D": ("gpt2", lora(use_dora=True, fan_in_fan_out=True)),
    "fused query, key and value": ("gpt_neox", lora()),
    "adalora": (
        "llama",
        AdaLoraConfig(
            init_r=6, target_r=4, total_step=9, target_modules=SOME, task_type="CAUSAL_LM"
        ),
    ),
    "ia3": ("gpt2", IA3Config(task_type="CAUSAL_LM")),
    "vera": ("llama", VeraConfig(r=16, target_modules=["q_proj"], task_type="CAUSAL_LM")),
    "vera drawn again": (
        "llama",
        VeraConfig(
            r=16, target_modules=["q_proj"], save_projection=False, task_type="CAUSAL_LM"
        ),
    ),
}  # fmt: skip
WHOLE: dict[str, PeftConfig] = {
    "start not taken back": lora(init_lora_weights="pissa"),
    "another family of adapters": LoHaConfig(r=4, target_modules=SOME, task_type="CAUSAL_LM"),
}


@pytest.fixture
def adapter(tmp_path: Path) -> MakeAdapter:
    """`adapter(base, config)`: a folder as PEFT writes it, every trainable weight moved."""

    def make(base: Path, config: PeftConfig, before: Callable[[Any], Any] | None = None) -> Path:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_pretrained(base)
        if before is not None:
            before(model)
        wrapped = get_peft_model(model, config)
        for weight in wrapped.parameters():
            if weight.requires_grad:
                weight.data.add_(torch.randn(weight.shape) * 0.05)
        wrapped.save_pretrained(tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


def beside(base: Path, adapter: Path, rows: int | None = None) -> PeftModel:
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if rows is not None:
        model.resize_token_embeddings(rows, mean_resizing=False)
    return PeftModel.from_pretrained(model, adapter).eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(TEXT).logits
    return found


def loaded(folder: Path, dtype: torch.dtype = torch.float32) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)


def stored(folder: Path) -> dict[str, torch.Tensor]:
    return {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}


@pytest.mark.parametrize("kind", KINDS)
def test_it_streams_and_equals_peft(checkpoint, adapter: MakeAdapter, tmp_path: Path, kind: str):
    family, config = KINDS[kind]
    base = checkpoint(family)
    trained = adapter(base, config)

    made = fuse(base, trained, tmp_path / "fused")

    assert (made.way, made.untied) == ("streamed", False)
    ours, reference = loaded(tmp_path / "fused"), beside(base, trained)
    expected = logits(reference)
    with reference.disable_adapter():
        assert (logits(reference) - expected).abs().max() > 1e-4, "the adapter does something"
    assert (logits(ours) - expected).abs().max() < 5e-6
    peft = reference.merge_and_unload().state_dict()
    assert all(torch.equal(weight, peft[name]) for name, weight in ours.state_dict().items())


@pytest.mark.parametrize("kind", WHOLE)
def test_what_cannot_stream_is_merged_in_memory(
    checkpoint, adapter: MakeAdapter, tmp_path: Path, kind: str
):
    base = checkpoint("llama")
    trained = adapter(base, WHOLE[kind])

    made = fuse(base, trained, tmp_path / "fused")

    assert made.way == "whole"
    assert made.reason
    expected = logits(beside(base, trained))
    assert (logits(loaded(tmp_path / "fused")) - expected).abs().max() < 5e-6


@pytest.mark.parametrize("targets", ["attention", "experts"])
def test_stacked_experts(adapter: MakeAdapter, llama_like, tmp_path: Path, targets: str):
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "mixtral", num_hidden_layers=1, hidden_size=32, intermediate_size=64, vocab_size=288,
        num_attention_heads=4, num_key_value_heads=2, num_local_experts=4,
    )  # fmt: skip
    base = tmp_path / "base"
    AutoModelForCausalLM.from_config(config).save_pretrained(base)
    AutoTokenizer.from_pretrained(llama_like).save_pretrained(base)
    more = {"target_parameters": ["experts.gate_up_proj", "experts.down_proj"]}
    trained = adapter(base, lora(target_modules=["q_proj"], **more if targets == "experts" else {}))

    made = fuse(base, trained, tmp_path / "fused", shard_size="100KB")

    assert made.way == "whole"
    assert "several tensors" in str(made.reason)
    expected = logits(beside(base, trained))
    assert (logits(loaded(tmp_path / "fused")) - expected).abs().max() < 5e-6
    assert set(stored(tmp_path / "fused")) == set(stored(base)), "one tensor for each expert again"


@pytest.mark.parametrize("module", ["embed_tokens", "lm_head"])
def test_tied_weights_part_when_one_is_adapted(
    checkpoint, adapter: MakeAdapter, tmp_path: Path, module: str
):
    base = checkpoint("llama")
    trained = adapter(base, lora(target_modules=["q_proj", module]))

    made = fuse(base, trained, tmp_path / "fused")

    assert made.untied
    assert not json.loads((tmp_path / "fused" / "config.json").read_text())["tie_word_embeddings"]
    expected = logits(beside(base, trained))
    assert (logits(loaded(tmp_path / "fused")) - expected).abs().max() < 5e-6


def test_tied_weights_stay_one_tensor(checkpoint, adapter: MakeAdapter, tmp_path: Path):
    base = checkpoint("llama")
    trained = adapter(base, lora(modules_to_save=["embed_tokens"], ensure_weight_tying=True))

    fuse(base, trained, tmp_path / "fused")

    assert "lm_head.weight" not in stored(tmp_path / "fused")
    assert (logits(loaded(tmp_path / "fused")) - logits(beside(base, trained))).abs().max() < 5e-6


def test_tokens_added_in_training(checkpoint, adapter: MakeAdapter, tmp_path: Path):
    base = checkpoint("llama")
    added = adapter(
        base, lora(modules_to_save=["embed_tokens", "lm_head"]),
        before=lambda model: model.resize_token_embeddings(300, mean_resizing=False),
    )  # fmt: skip
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<new>"])
    tokenizer.save_pretrained(added)

    made = fuse(base, added, tmp_path / "fused")

    assert made.rows == 300
    model = loaded(tmp_path / "fused")
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size == 300
    assert "<new>" in AutoTokenizer.from_pretrained(tmp_path / "fused").get_vocab()
    assert (logits(model) - logits(beside(base, added, 300))).abs().max() < 5e-6


def test_the_sum_is_rounded_once(checkpoint, adapter: MakeAdapter, tmp_path: Path):
    """In bfloat16: base and change are added in float32, as PEFT's merge of a float32 model."""
    base = tmp_path / "base"
    shutil.copytree(checkpoint("llama"), base)
    loaded(base).to(torch.bfloat16).save_pretrained(base)
    trained = adapter(base, lora(use_dora=True))

    kept = fuse(base, trained, tmp_path / "kept")
    wide = fuse(base, trained, tmp_path / "wide", "float32")

    assert (kept.dtype, wide.dtype) == ("bfloat16", "float32")
    assert kept.bytes * 2 == wide.bytes
    assert json.loads((tmp_path / "kept" / "config.json").read_text())["dtype"] == "bfloat16"
    exact = beside(base, trained).merge_and_unload().state_dict()
    for name, weight in stored(tmp_path / "kept").items():
        assert torch.equal(weight, exact[name].bfloat16())
    assert all(torch.equal(w, exact[name]) for name, w in stored(tmp_path / "wide").items())


def test_shards_have_an_index(checkpoint, adapter: MakeAdapter, tmp_path: Path):
    base = checkpoint("llama")
    trained = adapter(base, lora())

    made = fuse(base, trained, tmp_path / "fused", shard_size="40KB")

    assert len(made.files) > 2
    index = json.loads((tmp_path / "fused" / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"].values()) == set(made.files)
    assert index["metadata"]["total_size"] == made.bytes
    for file in made.files:
        with safe_open(str(tmp_path / "fused" / file), framework="pt") as opened:
            assert len(opened.keys()) == 1 or (tmp_path / "fused" / file).stat().st_size < 45_000
    assert (logits(loaded(tmp_path / "fused")) - logits(beside(base, trained))).abs().max() < 5e-6


def test_the_base_as_openai_wrote_it(checkpoint, adapter: MakeAdapter, tmp_path: Path):
    """GPT-2's first files leave out `transformer.` and hold masks that no model has now."""
    base = tmp_path / "old"
    shutil.copytree(checkpoint("gpt2"), base)
    old = {k.removeprefix("transformer."): v for k, v in stored(base).items()}
    old["h.0.attn.bias"] = torch.ones(1, 1, 128, 128).tril()
    save_file(old, base / "model.safetensors", metadata={"format": "pt"})
    trained = adapter(base, lora())

    made = fuse(base, trained, tmp_path / "fused")

    assert made.way == "streamed"
    assert (logits(loaded(tmp_path / "fused")) - logits(beside(base, trained))).abs().max() < 5e-6


def test_tokenizer_and_stops_are_the_adapters(
    checkpoint, adapter: MakeAdapter, settings, tmp_path: Path
):
    base = checkpoint("llama")
    trained = adapter(base, lora())
    first = fuse(base, trained, tmp_path / "fused")
    assert first.kind == "lora"
    assert AutoTokenizer.from_pretrained(tmp_path / "fused").chat_template is None, "the base's"
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = "{% for m in messages %}{{ m.content }}{% endfor %}"
    tokenizer.save_pretrained(trained)
    (trained / "generation_config.json").write_text('{"eos_token_id": [2, 3]}')

    fuse(base, trained, tmp_path / "fused")

    assert AutoTokenizer.from_pretrained(tmp_path / "fused").chat_template
    assert loaded(tmp_path / "fused").generation_config.eos_token_id == [2, 3]
    assert not list((tmp_path / "fused").glob("adapter*"))


def test_refusals_leave_what_was_there(checkpoint, adapter: MakeAdapter, tmp_path: Path):
    base = checkpoint("llama")
    target = tmp_path / "fused"
    target.mkdir()
    (target / "keep.txt").write_text("mine")

    def refused(kind: type[Exception], words: str, base: Path, trained: Path, **more: Any) -> None:
        with pytest.raises(kind, match=words):
            fuse(base, trained, target, **more)
        assert [path.name for path in target.iterdir()] == ["keep.txt"]
        assert not list(tmp_path.glob(".fused*")), "nothing half-written beside it"

    trained = adapter(base, lora())
    packed = tmp_path / "packed"
    shutil.copytree(base, packed)
    config = json.loads((packed / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "gptq", "bits": 4}
    (packed / "config.json").write_text(json.dumps(config))
    refused(QuantizedBase, "quantized", packed, trained)
    refused(NotFusable, "does not fit", checkpoint("gpt_neox"), adapter(checkpoint("gpt2"), lora()))
    trained = adapter(base, lora())
    weights = load_file(trained / "adapter_model.safetensors")
    name = next(iter(weights))
    save_file({**weights, "base_model.model.model.layers.9.self_attn.q_proj.lora_A.weight":
               weights[name].clone()}, trained / "adapter_model.safetensors")  # fmt: skip
    refused(NotFusable, "no module for", base, trained)
    save_file({k: v for k, v in weights.items() if k != name},
              trained / "adapter_model.safetensors")  # fmt: skip
    refused(NotFusable, "no weights for", base, trained)
    save_file({**weights, name: weights[name] * 1e9}, trained / "adapter_model.safetensors")
    refused(NotFinite, "does not fit float16", base, trained, dtype="float16")
    (trained / "adapter_model.safetensors").unlink()
    refused(FileNotFoundError, "adapter_model", base, trained)
    prompt = PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM")
    refused(NotFusable, "reads along", base, adapter(base, prompt))
    refused(NotFusable, "repeats layers", base,
            adapter(base, lora(layer_replication=[[0, 2], [1, 2]])))  # fmt: skip
