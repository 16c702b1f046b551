"""The final folder: what is in it, and that it gives the same model back."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmforge.build import load as module
from llmforge.build.load import is_adapter, load, save_final
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.stages.prepare import prepare


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@pytest.fixture
def trained(make_plan, settings, checkpoint, tmp_path: Path):
    """`trained("lora", "scratch")`: plan and trainer after two steps."""

    def make(adapter: str, source: str, family: str = "llama", **changes: Any):
        more = {} if source == "scratch" else settings.folder_model(checkpoint(family))
        more |= {"lora": settings.LORA} if adapter == "lora" else {}
        if source == "scratch" and family != "llama":
            more |= {"model.family": family}
        plan = make_plan(more | changes)
        trainer = build_trainer(plan, build_parts(plan, prepare(plan)), tmp_path / "out", [])
        trainer.train()
        return plan, trainer

    return make


def logits(model: Any, tokenizer: Any) -> torch.Tensor:
    ids = tokenizer("What comes after 1?", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        return model.eval()(ids).logits


@pytest.mark.parametrize("source", ["folder", "scratch"])
@pytest.mark.parametrize("adapter", ["full", "lora"])
def test_the_model_comes_back(trained, tmp_path: Path, adapter, source):
    plan, trainer = trained(adapter, source)
    save_final(plan, trainer, tmp_path / "final")
    model, tokenizer = load(tmp_path / "final")
    assert not model.training
    expected = logits(trainer.model, trainer.processing_class)
    assert torch.equal(logits(model, tokenizer), expected)
    assert is_adapter(tmp_path / "final") == (adapter == "lora")
    if adapter == "lora":
        model.disable_adapter_layers()
        assert not torch.equal(logits(model, tokenizer), expected), "the adapter changes something"


@pytest.mark.parametrize("family", ["qwen2", "gemma", "opt", "gpt2", "gpt_neox"])
def test_every_family_from_scratch_with_an_adapter(trained, tmp_path: Path, family):
    plan, trainer = trained("lora", "scratch", family)
    save_final(plan, trainer, tmp_path / "final")
    found = logits(*load(tmp_path / "final"))
    assert torch.equal(found, logits(trainer.model, trainer.processing_class))


def test_modules_trained_whole_come_back_too(trained, settings, tmp_path: Path):
    lora = settings.LORA | {"modules_to_save": ["lm_head", "embed_tokens"], "bias": "all"}
    changes = {"lora": lora, "model.tie_embeddings": False}
    plan, trainer = trained("full", "scratch", **changes)
    save_final(plan, trainer, tmp_path / "final")
    found = logits(*load(tmp_path / "final"))
    assert torch.equal(found, logits(trainer.model, trainer.processing_class))


def test_parts_are_saved_like_a_trainer(make_plan, tmp_path: Path):
    plan = make_plan()
    parts = build_parts(plan, prepare(plan))
    save_final(plan, parts, tmp_path / "final")
    assert torch.equal(logits(*load(tmp_path / "final")), logits(parts.model, parts.tokenizer))


def test_what_a_folder_of_full_weights_holds(trained, tmp_path: Path):
    plan, trainer = trained("full", "scratch")
    save_final(plan, trainer, tmp_path / "final")
    assert names(tmp_path / "final") == {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    generation = json.loads((tmp_path / "final/generation_config.json").read_text())
    assert generation["eos_token_id"] == [3, 1], "end of turn, end of text"
    config = json.loads((tmp_path / "final/config.json").read_text())
    assert config["use_cache"] is True, "it is off in training only"
    assert trainer.model.config.use_cache is False, "saving does not change the model"
    # and any other tool reads it
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "final")
    tokenizer = trainer.processing_class
    assert torch.equal(logits(plain, tokenizer), logits(trainer.model, tokenizer))


def test_what_a_folder_of_an_adapter_holds(trained, checkpoint, tmp_path: Path):
    plan, trainer = trained("lora", "folder")
    save_final(plan, trainer, tmp_path / "final")
    assert names(tmp_path / "final") == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
    }
    config = json.loads((tmp_path / "final/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(checkpoint("llama"))


def test_a_base_from_scratch_moves_with_its_adapter(trained, tmp_path: Path):
    plan, trainer = trained("lora", "scratch")
    save_final(plan, trainer, tmp_path / "final")
    config = json.loads((tmp_path / "final/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(tmp_path / "final" / "base")
    expected = logits(*load(tmp_path / "final"))
    (tmp_path / "final").rename(tmp_path / "elsewhere")
    assert torch.equal(logits(*load(tmp_path / "elsewhere")), expected)


def test_an_end_token_that_pads_keeps_learning_after_a_reload(trained, gpt2_like, tmp_path: Path):
    changes = {"tokenizer.source": str(gpt2_like), "collator.max_length": 128}
    plan, trainer = trained("full", "scratch", **changes)
    assert trainer.processing_class.pad_token_id == trainer.processing_class.eos_token_id
    save_final(plan, trainer, tmp_path / "final")
    model, tokenizer = load(tmp_path / "final")
    assert model.get_input_embeddings().padding_idx is None
    assert model.generation_config.pad_token_id == tokenizer.pad_token_id


def test_large_weights_are_split(trained, tmp_path: Path):
    plan, trainer = trained("full", "scratch", **{"checkpoint.max_shard_size": "30KB"})
    save_final(plan, trainer, tmp_path / "final")
    assert len(list((tmp_path / "final").glob("*.safetensors"))) > 1
    found = logits(*load(tmp_path / "final"))
    assert torch.equal(found, logits(trainer.model, trainer.processing_class))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_another_format_on_request(trained, tmp_path: Path, dtype):
    plan, trainer = trained("lora", "scratch")
    save_final(plan, trainer, tmp_path / "final")
    model, _ = load(tmp_path / "final", dtype)
    assert model.get_input_embeddings().weight.dtype == getattr(torch, dtype)


class TestReplacing:
    def test_a_new_model_replaces_the_old_one_whole(self, trained, tmp_path: Path):
        plan, trainer = trained("full", "scratch")
        (tmp_path / "final").mkdir()
        (tmp_path / "final" / "left over").touch()
        save_final(plan, trainer, tmp_path / "final")
        assert "left over" not in names(tmp_path / "final")
        assert not [n for n in names(tmp_path) if n.startswith(".final")]

    def test_a_save_that_fails_leaves_the_old_one_alone(self, trained, tmp_path: Path, monkeypatch):
        plan, trainer = trained("full", "scratch")
        save_final(plan, trainer, tmp_path / "final")
        before = (tmp_path / "final" / "model.safetensors").read_bytes()

        def full(path: Path) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module, "sync", full)
        with pytest.raises(OSError, match="No space left"):
            save_final(plan, trainer, tmp_path / "final")
        assert (tmp_path / "final" / "model.safetensors").read_bytes() == before
        assert not [n for n in names(tmp_path) if n.startswith(".final")]


class TestRefused:
    def test_no_folder(self, tmp_path: Path):
        with pytest.raises(FileNotFoundError, match="there is no model folder"):
            load(tmp_path / "nothing")

    def test_a_pickle(self, trained, tmp_path: Path):
        plan, trainer = trained("full", "scratch")
        save_final(plan, trainer, tmp_path / "final")
        (tmp_path / "final/model.safetensors").rename(tmp_path / "final/pytorch_model.bin")
        with pytest.raises(FileNotFoundError, match=r"pytorch_model\.bin, a pickle"):
            load(tmp_path / "final")

    def test_an_adapter_in_a_pickle(self, trained, tmp_path: Path):
        plan, trainer = trained("lora", "scratch")
        save_final(plan, trainer, tmp_path / "final")
        (tmp_path / "final/adapter_model.safetensors").rename(tmp_path / "final/adapter_model.bin")
        with pytest.raises(FileNotFoundError, match=r"no adapter_model\.safetensors"):
            load(tmp_path / "final")

    def test_a_base_that_is_gone(self, trained, tmp_path: Path):
        plan, trainer = trained("lora", "scratch")
        save_final(plan, trainer, tmp_path / "final")
        shutil.rmtree(tmp_path / "final" / "base")
        with pytest.raises(FileNotFoundError, match=r"needs its base model .*base, which is gone"):
            load(tmp_path / "final")
