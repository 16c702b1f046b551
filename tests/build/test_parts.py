"""Parts from a plan, and what is said when one cannot be built."""

from __future__ import annotations

import dataclasses
import shutil
import sys
import types
from pathlib import Path

import pytest
import torch

from llmforge.build.adapter import trainable_share
from llmforge.build.errors import BuildError
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.stages.prepare import prepare


def test_ids_of_special_tokens_are_the_tokenizers(make_plan):
    plan = make_plan()
    parts = build_parts(plan, prepare(plan))
    config, generation = parts.model.config, parts.model.generation_config
    assert (config.pad_token_id, config.eos_token_id, config.bos_token_id) == (0, 1, None)
    assert (generation.pad_token_id, generation.eos_token_id) == (0, [3, 1])


def test_a_loaded_model_stops_where_it_was_trained_to(make_plan, settings, checkpoint):
    plan = make_plan(settings.folder_model(checkpoint("llama")))
    parts = build_parts(plan, prepare(plan))
    assert parts.tokenizer.pad_token == "<|reserved_0|>"
    assert parts.model.generation_config.eos_token_id == [parts.tokenizer.eos_token_id]


def test_the_collator_is_the_plans(make_plan):
    plan = make_plan({"tokenizer.padding_side": "left", "collator.pad_to_multiple": 16})
    parts = build_parts(plan, prepare(plan))
    batch = parts.collator([parts.train[0], parts.train[1]])
    assert batch["input_ids"].shape[1] % 16 == 0
    assert batch["attention_mask"][:, 0].sum() == 0
    assert batch["input_ids"][0, 0] == parts.tokenizer.pad_token_id


def test_weights_in_a_pickle_are_refused_with_the_way_to_convert(
    make_plan, settings, checkpoint, tmp_path: Path
):
    folder = tmp_path / "pickled"
    shutil.copytree(checkpoint("llama"), folder)
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    plan = make_plan(settings.folder_model(folder))
    with pytest.raises(
        BuildError, match=r"`model` \(conf/model.*pytorch_model.bin, a pickle.*convert it once"
    ):
        build_parts(plan, prepare(plan))


def test_more_tokens_than_embedding_rows_are_refused_with_both_numbers(
    make_plan, settings, checkpoint, gpt2_like, tmp_path: Path
):
    folder = tmp_path / "small"
    shutil.copytree(checkpoint("llama"), folder)
    plan = make_plan(
        settings.folder_model(folder)
        | {"tokenizer.source": "train", "tokenizer.vocabulary": 320, "collator.max_length": 64},
        rows=[{"messages": chat} for chat in settings.CHATS * 3],
    )
    prepared = prepare(plan)
    tokens = prepared.report["vocabulary"]
    assert tokens > 288
    with pytest.raises(BuildError, match=f"{tokens} tokens and the model 288 embedding rows"):
        build_parts(plan, prepared)


def test_an_adapter_that_finds_nothing_is_refused(make_plan, settings):
    plan = make_plan({"lora": settings.LORA | {"targets": ["c_attn"]}})
    with pytest.raises(BuildError, match=r"building `lora` \(.*NoMatching.*c_attn.* not found"):
        build_parts(plan, prepare(plan))


def test_an_adapter_that_finds_too_little_is_refused(make_plan, settings):
    plan = make_plan({"lora": settings.LORA | {"targets": ["q_proj"], "expect_modules": 3}})
    with pytest.raises(BuildError, match=r"hit 2 modules, lora\.expect_modules asks for 3"):
        build_parts(plan, prepare(plan))


def test_trainable_share_of_an_adapter(make_plan, settings):
    plan = make_plan({"lora": settings.LORA | {"targets": ["q_proj", "v_proj"]}})
    found = trainable_share(build_parts(plan, prepare(plan)).model)
    # two layers, two modules of 32 x 32, rank 4: 2 * 2 * 4 * (32 + 32)
    assert found["trainable"] == 1024
    assert found["share"] == found["trainable"] / found["total"]


def test_modules_saved_whole_are_trained_in_float32(make_plan, settings):
    plan = make_plan(
        {
            "lora": settings.LORA | {"modules_to_save": ["lm_head"]},
            "precision.weights": "bfloat16",
            "precision.compute": "bfloat16",
        }
    )
    model = build_parts(plan, prepare(plan)).model
    trained = {n: w.dtype for n, w in model.named_parameters() if w.requires_grad}
    assert any("lm_head" in name for name in trained)
    assert set(trained.values()) == {torch.float32}


@pytest.mark.parametrize("bits", [4, 8])
def test_a_quantized_base_trains_its_adapter(make_plan, settings, checkpoint, tmp_path, bits):
    pytest.importorskip("bitsandbytes")
    plan = make_plan(
        settings.folder_model(checkpoint("llama"))
        | {"lora": settings.LORA, "trainer.gradient_checkpointing": True}
    )
    plan.lowered["quantization_config"] = (
        {
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_use_double_quant": True,
            "bnb_4bit_compute_dtype": "float32",
        }
        if bits == 4
        else {"load_in_8bit": True, "llm_int8_threshold": 6.0}
    )
    parts = build_parts(plan, prepare(plan))
    share = trainable_share(parts.model)
    plain = trainable_share(build_parts(plan_without_bits(plan), prepare(plan)).model)
    assert share == plain, "a packed weight counts as what it stands for"
    before = {n: w.detach().clone() for n, w in parts.model.named_parameters()}
    result = build_trainer(plan, parts, tmp_path, []).train()
    assert 3 < result.training_loss < 8
    moved = {n for n, w in parts.model.named_parameters() if not torch.equal(w, before[n])}
    assert moved
    assert all("lora_" in name for name in moved)


def plan_without_bits(plan):
    return dataclasses.replace(plan, lowered=plan.lowered | {"quantization_config": None})


def test_every_registered_builder_is_there():
    from llmforge import registry
    from llmforge.schema import SECTIONS

    found = [
        f"{section}.{kind}"
        for section in ("model", "data", "collator", "lora", "trainer", "optimizer")
        for kind, component in registry.kinds(section).items()
        if component.builder is not None and callable(component.load_builder())
    ]
    assert len(found) >= 11
    assert {"data", "collator", "model", "lora", "trainer"} <= set(SECTIONS)


def test_a_builder_of_ones_own_is_used(make_plan, monkeypatch):
    """What a plugin does: another builder under a kind, imported by name when it is needed."""
    from llmforge import registry
    from llmforge.build.sample import Sample

    def ends_only(rows, tokenizer, plan):
        return [Sample([5, tokenizer.eos_token_id], [-100, plan.spec.seed]) for _ in rows]

    plugin = types.ModuleType("my_plugin")
    plugin.ends_only = ends_only
    monkeypatch.setitem(sys.modules, "my_plugin", plugin)
    spec = registry.component("collator", "chat").spec
    own = registry.Component("collator", "chat", spec, "my_plugin:ends_only")
    monkeypatch.setitem(registry._components["collator"], "chat", own)
    assert prepare(make_plan()).train["labels"][:] == [[-100, 7]] * 12
