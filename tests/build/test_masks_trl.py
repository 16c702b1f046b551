"""Chat masks beside TRL's: the same tokens carry loss, one by one.

TRL's own trainer tokenises the chats (`assistant_only_loss`), with templates that mark what the
assistant writes; its labels are compared with ours. The first label is left out of nothing: no chat
begins with an answer.
"""

from __future__ import annotations

import importlib.resources
from types import SimpleNamespace
from typing import Any

import pytest

from llmforge import registry
from llmforge.build.sample import Sample
from llmforge.build.templates import set_chat_template
from llmforge.build.tokenize import chat_sample
from llmforge.build.tokenizer import train_tokenizer
from llmforge.sources import chat_templates
from llmforge.sources.base import Row

trl = pytest.importorskip("trl", reason="TRL is a test dependency: pip install trl")

MARKS = [
    *("<s>", "</s>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|end|>"),
    *("<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>"),
]

CHATS = [
    [("user", "What comes after 1?"), ("assistant", "2 comes.")],
    [
        ("user", "Zähle bis drei 🙂"),
        ("assistant", "Eins,  zwei,\n\ndrei 👩‍👩‍👧"),
        ("user", " And then? "),
        ("assistant", "  4, five and\tsix\n"),
    ],
    [("user", "yes"), ("assistant", "yes"), ("user", "yes"), ("assistant", "yes")],
    [("user", "Quiet?"), ("assistant", ""), ("user", "Hello?"), ("assistant", "Here.")],
    [("user", "Say <|im_end|>"), ("assistant", "I will not say it.")],
    [("user", "one"), ("assistant", "two"), ("user", "three")],
]
SYSTEM = ("system", "Be brief.")


def messages(chat: list[tuple[str, str]], system: bool) -> list[dict[str, str]]:
    turns = [SYSTEM, *chat] if system else chat
    return [{"role": role, "content": content} for role, content in turns]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Every mark of every template is one token."""
    texts = [content for chat in CHATS for _, content in chat] + list(chat_templates.names())
    made = train_tokenizer(texts * 3, 420, 512)
    made.add_special_tokens({"additional_special_tokens": MARKS})
    made.bos_token, made.eos_token = "<s>", "</s>"
    return made


@pytest.fixture(scope="module")
def trl_labels(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Token ids and labels as TRL's trainer makes them."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, LlamaConfig

    config = LlamaConfig(
        vocab_size=512,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )

    def made(tokenizer: Any, rows: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
        trainer = trl.SFTTrainer(
            model=AutoModelForCausalLM.from_config(config),
            args=trl.SFTConfig(
                output_dir=str(tmp_path_factory.mktemp("trl")),
                assistant_only_loss=True,
                max_length=None,
                use_cpu=True,
                bf16=False,
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
        )
        data = trainer.train_dataset
        return list(zip(data["input_ids"], data["labels"], strict=True))

    return made


def ours(tokenizer: Any, rows: list[dict[str, Any]]) -> list[tuple[list[int], list[int]]]:
    spec = registry.component("collator", "chat").spec(
        kind="chat",
        turns="all",
        train_end_of_turn=True,
        max_length=512,
        truncation="refuse",
        packing="none",
        pad_to_multiple=8,
    )
    plan: Any = SimpleNamespace(spec=SimpleNamespace(collator=spec))
    found = chat_sample([Row("x", n, row) for n, row in enumerate(rows, 1)], tokenizer, plan)
    assert all(isinstance(sample, Sample) for sample in found), found
    return [(sample.ids.tolist(), sample.labels.tolist()) for sample in found]


def compare(tokenizer: Any, trl_labels: Any, rows: list[dict[str, Any]]) -> None:
    theirs, own = trl_labels(tokenizer, rows), ours(tokenizer, rows)
    for (their_ids, their_labels), (ids, labels) in zip(theirs, own, strict=True):
        assert ids == their_ids
        assert labels == their_labels
        assert any(label != -100 for label in labels)
        assert not all(label != -100 for label in labels[1:])


@pytest.mark.parametrize("name", chat_templates.names())
@pytest.mark.parametrize("system", [True, False], ids=["system", "plain"])
def test_templates_by_name(name: str, system: bool, tokenizer: Any, trl_labels: Any):
    set_chat_template(tokenizer, name, chats=True)
    rows = [{"messages": messages(chat, system)} for chat in CHATS]
    if name == "alpaca":
        # "### Response:" and an answer without a space share a token where the answer is empty or
        # begins with a sign; TRL learns that token, we do not (see `encode.py`)
        rows = [row for row in rows if row["messages"][-1]["content"][:1].isalnum()]
    compare(tokenizer, trl_labels, rows)


@pytest.mark.parametrize(
    "name", ["llama3_training", "qwen2_5_training", "qwen3_training", "phi3_training"]
)
def test_templates_that_trl_brings(name: str, tokenizer: Any, trl_labels: Any):
    own = importlib.resources.files("trl") / "chat_templates" / f"{name}.jinja"
    tokenizer.chat_template = own.read_text(encoding="utf-8")
    tokenizer.eos_token = "<|im_end|>" if name.startswith("qwen") else "</s>"
    rows = [{"messages": messages(chat, system=True)} for chat in CHATS]
    compare(tokenizer, trl_labels, rows)


def test_tools_and_calls(tokenizer: Any, trl_labels: Any):
    set_chat_template(tokenizer, "chatml", chats=True)
    parameters = {"type": "object", "properties": {"a": {"type": "integer"}}}
    tool = {"name": "add", "description": "Adds.", "parameters": parameters}
    call = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
    talk = [
        {"role": "user", "content": "1 + 2?"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "3"},
        {"role": "assistant", "content": "It is 3."},
    ]
    compare(
        tokenizer,
        trl_labels,
        [{"messages": talk, "tools": [{"type": "function", "function": tool}]}],
    )
