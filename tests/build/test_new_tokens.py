"""Tokens that a checkpoint never learned, under an adapter: trained, or refused in time."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from llmforge.build.load import load, save_final
from llmforge.build.parts import build_parts
from llmforge.build.trainer import build_trainer
from llmforge.compiler.passes import check, compile_plan
from llmforge.stages.prepare import prepare

MARKS = ["<|im_end|>", "<|im_start|>"]
Chosen = Callable[..., list[str]]


@pytest.fixture(scope="module")
def with_marks(tmp_path_factory, llama_like: Path) -> Path:
    """The checkpoints' tokenizer with the two marks of ChatML added to it."""
    tokenizer = AutoTokenizer.from_pretrained(llama_like)
    tokenizer.add_special_tokens({"additional_special_tokens": MARKS})
    folder: Path = tmp_path_factory.mktemp("marks")
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "apart"])
def base(request, tmp_path_factory, llama_like: Path) -> Path:
    """A tiny Llama with a few embedding rows more than its tokenizer has tokens."""
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "llama", num_hidden_layers=2, hidden_size=32, intermediate_size=64, vocab_size=288,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
        bos_token_id=1, eos_token_id=2, tie_word_embeddings=request.param,
    )  # fmt: skip
    folder: Path = tmp_path_factory.mktemp("base")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(llama_like).save_pretrained(folder)
    return folder


@pytest.fixture
def chosen(base: Path, settings, tmp_path: Path, monkeypatch) -> Chosen:
    """`chosen("tokenizer.source=...")`: overrides of two steps over sixteen chats."""
    rows = "".join(json.dumps({"messages": chat}) + "\n" for chat in settings.CHATS)
    (tmp_path / "train.jsonl").write_text(rows, encoding="utf-8")
    monkeypatch.chdir(tmp_path)

    def make(*overrides: str) -> list[str]:
        return [
            "model=folder", f"model.path={base}", "data=jsonl", "data.train=train.jsonl",
            "hardware=cpu", "tracking=none", "collator.max_length=100", "trainer.epochs=null",
            "trainer.max_steps=2", "trainer.global_batch=4", "trainer.micro_batch=4",
            "optimizer.lr=0.002", "schedule=constant", "evaluation=end", "checkpoint.every=null",
            "tokenizer.chat_template=chatml", "lora=small", *overrides,
        ]  # fmt: skip

    return make


def test_they_are_refused_under_a_frozen_embedding(chosen, with_marks):
    (found,) = (d for d in check(chosen(f"tokenizer.source={with_marks}")).diagnostics)

    assert found.code == "LF619"
    assert all(mark in found.message for mark in MARKS)
    assert found.hint == "tokenizer.source=model"


def test_their_rows_are_trained_with_the_embedding(chosen, with_marks, tmp_path: Path):
    tied = "lora.modules_to_save=[embed_tokens]"
    apart = "lora.modules_to_save=[embed_tokens,lm_head]"
    marks = f"tokenizer.source={with_marks}"
    plan = compile_plan(chosen(marks, apart))
    if plan.facts["model"]["tied_embeddings"]:
        plan = compile_plan(chosen(marks, tied))  # one name is enough: they are one weight
    parts = build_parts(plan, prepare(plan))
    table = parts.model.get_base_model().get_input_embeddings()
    ids = parts.tokenizer.convert_tokens_to_ids(MARKS)
    before = table.original_module.weight[ids].detach().clone()
    trainer = build_trainer(plan, parts, tmp_path / "out", [])

    trainer.train()

    after = table.modules_to_save["default"].weight[ids]
    assert (after != before).any(dim=1).all(), "every mark has moved"
    assert torch.equal(table.original_module.weight[ids], before)
    head = parts.model.get_base_model().get_output_embeddings().modules_to_save["default"].weight
    assert (head is table.modules_to_save["default"].weight) is plan.facts["model"][
        "tied_embeddings"
    ]
    save_final(plan, trainer, tmp_path / "final")
    model, tokenizer = load(tmp_path / "final")
    assert tokenizer.convert_tokens_to_ids(MARKS) == ids
    said = tokenizer(f"{MARKS[1]}user", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        assert torch.equal(model.eval()(said).logits, trainer.model.eval()(said).logits)


def test_a_template_adds_none(chosen, base: Path):
    """ChatML's marks, which the tokenizer lacks, are ordinary text: no row is left untrained."""
    plan = compile_plan(chosen())

    parts = build_parts(plan, prepare(plan))

    own = AutoTokenizer.from_pretrained(base)
    assert len(parts.tokenizer) == len(own)
    assert len(parts.tokenizer(MARKS[0], add_special_tokens=False)["input_ids"]) > 1
    table = parts.model.get_base_model().get_input_embeddings()
    assert table.num_embeddings == 288
    assert not table.weight.requires_grad


def test_more_tokens_than_rows_are_refused(chosen, with_marks, tmp_path: Path):
    tokenizer = AutoTokenizer.from_pretrained(with_marks)
    tokenizer.add_tokens([f"<extra_{number}>" for number in range(20)])
    tokenizer.save_pretrained(tmp_path / "large")

    whole = "lora.modules_to_save=[embed_tokens,lm_head]"
    found = check(chosen("tokenizer.source=large", whole)).diagnostics

    assert [(d.code, d.hint) for d in found] == [("LF620", "tokenizer.source=model")]
