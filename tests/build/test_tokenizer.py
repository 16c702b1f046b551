"""Trained and loaded tokenizers: round trips, padding tokens, templates, stop tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import AutoConfig

from llmforge.build.data import Row
from llmforge.build.templates import set_chat_template, stop_ids
from llmforge.build.tokenize import _Mask
from llmforge.build.tokenizer import give_padding, make_tokenizer, open_tokenizer, train_tokenizer

TEXTS = ["What comes after 1?", "2 comes after 1.", "Grüße aus Köln", "naïve café"] * 5


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        " two  spaces ",
        "tab\tnew\nline\r\n",
        "Grüße 🙂👩‍👩‍👧",
        "日本語",
        "\x00\x7f",
        "a\u2028b",
        "don 't . ,",
    ],
)
def test_a_trained_tokenizer_gives_any_text_back(text: str):
    tokenizer = train_tokenizer(TEXTS, 400, 64)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_special_tokens_are_four_and_apart():
    tokenizer = train_tokenizer(TEXTS, 400, 64)
    names = ["<pad>", "<eos>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids(names) == [0, 1, 2, 3]
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<pad>", "<eos>")
    assert tokenizer("<|im_start|>user\n")["input_ids"][0] == 2
    assert tokenizer.model_max_length == 64


def test_vocabulary_is_never_more_than_asked_for():
    assert len(train_tokenizer(TEXTS, 280, 64)) == 280
    assert len(train_tokenizer(["ab"], 300, 64)) < 300


def test_saved_and_opened_again_it_is_the_same(tmp_path: Path):
    tokenizer = train_tokenizer(TEXTS, 400, 64)
    set_chat_template(tokenizer, "chatml", chats=True)
    tokenizer.save_pretrained(tmp_path)
    again = open_tokenizer(tmp_path)
    assert again.get_vocab() == tokenizer.get_vocab()
    assert again.chat_template == tokenizer.chat_template
    assert (again.pad_token, again.eos_token) == ("<pad>", "<eos>")
    assert again.model_max_length == 64
    assert stop_ids(again) == [3, 1]


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma", "gpt2"])
def test_beside_a_model_it_is_still_the_same(tmp_path: Path, family: str):
    # transformers would read a Qwen2 folder with Qwen2's own splitting and one token more
    tokenizer = train_tokenizer(TEXTS, 400, 64)
    AutoConfig.for_model(family).save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    again = open_tokenizer(tmp_path)
    text = "What  comes after 12345?\n\n Grüße"
    assert again(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert len(again) == len(tokenizer)


class TestPadding:
    def test_a_reserved_token_pads_before_the_unknown_one(self, llama_like):
        tokenizer = open_tokenizer(llama_like)
        give_padding(tokenizer)
        assert tokenizer.pad_token == "<|reserved_0|>"

    def test_one_token_for_everything_pads_as_well(self, gpt2_like):
        tokenizer = open_tokenizer(gpt2_like)
        give_padding(tokenizer)
        assert tokenizer.pad_token == tokenizer.eos_token

    def test_the_choice_is_saved_with_the_tokenizer(self, llama_like, tmp_path: Path):
        tokenizer = open_tokenizer(llama_like)
        give_padding(tokenizer)
        tokenizer.save_pretrained(tmp_path)
        assert open_tokenizer(tmp_path).pad_token == "<|reserved_0|>"

    def test_a_padding_token_of_its_own_stays(self):
        tokenizer = train_tokenizer(TEXTS, 300, 64)
        give_padding(tokenizer)
        assert tokenizer.pad_token == "<pad>"

    def test_no_token_is_ever_added(self, llama_like, gpt2_like, make_plan):
        for folder, size in ((llama_like, 284), (gpt2_like, 281)):
            plan = make_plan({"tokenizer.source": str(folder)})
            assert len(make_tokenizer(plan, [])) == size


class TestTemplate:
    OWN = "{% for m in messages %}{{ m.role }}={{ m.content }};{% endfor %}"

    def tokenizer(self, template: str | None) -> Any:
        tokenizer = train_tokenizer(TEXTS, 300, 64)
        tokenizer.chat_template = template
        return tokenizer

    def test_auto_keeps_the_tokenizers_own(self):
        tokenizer = self.tokenizer(self.OWN)
        set_chat_template(tokenizer, "auto", chats=True)
        assert tokenizer.chat_template == self.OWN

    def test_auto_falls_back_to_chatml_for_chats_only(self):
        chats, text = self.tokenizer(None), self.tokenizer(None)
        set_chat_template(chats, "auto", chats=True)
        set_chat_template(text, "auto", chats=False)
        assert "<|im_start|>" in chats.chat_template
        assert text.chat_template is None

    def test_chatml_replaces_the_tokenizers_own(self):
        tokenizer = self.tokenizer(self.OWN)
        set_chat_template(tokenizer, "chatml", chats=True)
        assert (
            tokenizer.apply_chat_template(
                [{"role": "user", "content": " a\n"}], tokenize=False, add_generation_prompt=True
            )
            == "<|im_start|>user\n a\n<|im_end|>\n<|im_start|>assistant\n"
        )

    def test_a_path_is_read(self, tmp_path: Path):
        (tmp_path / "own.jinja").write_text(self.OWN + "ü", encoding="utf-8")
        tokenizer = self.tokenizer(None)
        set_chat_template(tokenizer, str(tmp_path / "own.jinja"), chats=True)
        assert tokenizer.chat_template == self.OWN + "ü"


def test_source_train_reads_the_rows_given(make_plan):
    rows = [Row("x", 1, {"prompt": "zebra zebra", "completion": "quagga"})] * 20
    tokenizer = make_tokenizer(make_plan({"tokenizer.vocabulary": 280}), rows)
    assert len(tokenizer("zebra")["input_ids"]) < len(tokenizer("brzea")["input_ids"])


class TestEdges:
    """`tokenizer.add_bos` and `add_eos`, in what is trained on and in what is saved."""

    def made(self, make_plan, source: Path, **edges: Any) -> tuple[Any, Any]:
        changes = {f"tokenizer.{name}": value for name, value in edges.items()}
        plan = make_plan({"tokenizer.source": str(source), "collator.kind": "lm", **changes})
        return plan, make_tokenizer(plan, [])

    @pytest.mark.parametrize("bos", [True, False, "auto"])
    @pytest.mark.parametrize("eos", [True, False, "auto"])
    def test_the_saved_tokenizer_holds_them(self, bos, eos, make_plan, llama_like, tmp_path: Path):
        _, tokenizer = self.made(make_plan, llama_like, add_bos=bos, add_eos=eos)
        tokenizer.save_pretrained(tmp_path / "saved")
        ids = open_tokenizer(tmp_path / "saved")("yes")["input_ids"]
        # by itself it begins with BOS and has no end
        assert (ids[0] == tokenizer.bos_token_id) is (bos is not False)
        assert (ids[-1] == tokenizer.eos_token_id) is (eos is True)
        assert ids.count(tokenizer.bos_token_id) <= 1

    @pytest.mark.parametrize("bos", [True, False])
    def test_samples_begin_so(self, bos, make_plan, llama_like):
        plan, tokenizer = self.made(make_plan, llama_like, add_bos=bos)
        mask = _Mask(tokenizer, plan)
        plain, _ = mask._wrapped(np.array([40, 41]), np.array([40, 41]))
        begun, _ = mask._wrapped(np.array([1, 40, 41]), np.array([1, 40, 41]))
        assert list(plain) == ([1] if bos else []) + [40, 41, 2]
        assert list(begun) == [1, 40, 41, 2], "what the text brings is not doubled"

    @pytest.mark.parametrize("bos", [True, False])
    def test_shipped_templates_follow(self, bos, make_plan, llama_like):
        plan = make_plan({"tokenizer.source": str(llama_like), "tokenizer.add_bos": bos,
                          "tokenizer.chat_template": "vicuna"})  # fmt: skip
        tokenizer = make_tokenizer(plan, [])
        chat = [{"role": "user", "content": "a"}]
        assert tokenizer.apply_chat_template(chat, tokenize=False).count("<s>") == int(bos)

    def test_a_token_that_is_not_there(self, make_plan, gpt2_like):
        with pytest.raises(ValueError, match="the tokenizer has no bos token"):
            self.made(make_plan, gpt2_like, add_bos=True)
