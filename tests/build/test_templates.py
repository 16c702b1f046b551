"""Chat templates by name: what they write, what they mark, and which token stops."""

from __future__ import annotations

import importlib.resources
import json
import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from llmforge.build.templates import named_template, set_chat_template, stop_ids
from llmforge.sources import chat_templates

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What comes after 1?"},
    {"role": "assistant", "content": "2 comes."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "3 comes."},
]
NO_SYSTEM = TALK[1:]

ALPACA = (
    "Below is an instruction that describes a task. Write a response that appropriately completes "
    "the request.\n\n"
)
VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. "
)

RENDERED = {
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n"
    "<|im_start|>user\nWhat comes after 1?<|im_end|>\n"
    "<|im_start|>assistant\n2 comes.<|im_end|>\n"
    "<|im_start|>user\nAnd then?<|im_end|>\n"
    "<|im_start|>assistant\n3 comes.<|im_end|>\n",
    "llama2": "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nWhat comes after 1? [/INST] 2 comes. </s>"
    "<s>[INST] And then? [/INST] 3 comes. </s>",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhat comes after 1?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n2 comes.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nAnd then?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n3 comes.<|eot_id|>",
    "mistral": "<s> [INST] Be brief.\n\nWhat comes after 1? [/INST] 2 comes.</s>"
    " [INST] And then? [/INST] 3 comes.</s>",
    "zephyr": "<|system|>\nBe brief.</s>\n<|user|>\nWhat comes after 1?</s>\n"
    "<|assistant|>\n2 comes.</s>\n<|user|>\nAnd then?</s>\n<|assistant|>\n3 comes.</s>\n",
    "alpaca": "Be brief.\n\n### Instruction:\nWhat comes after 1?\n\n### Response:2 comes.</s>"
    "\n\n### Instruction:\nAnd then?\n\n### Response:3 comes.</s>",
    "vicuna": "Be brief. USER: What comes after 1? ASSISTANT: 2 comes.</s>"
    "USER: And then? ASSISTANT: 3 comes.</s>",
    "gemma": "<s><start_of_turn>user\nBe brief.\n\nWhat comes after 1?<end_of_turn>\n"
    "<start_of_turn>model\n2 comes.<end_of_turn>\n<start_of_turn>user\nAnd then?<end_of_turn>\n"
    "<start_of_turn>model\n3 comes.<end_of_turn>\n",
    "phi3": "<|system|>\nBe brief.<|end|>\n<|user|>\nWhat comes after 1?<|end|>\n"
    "<|assistant|>\n2 comes.<|end|>\n<|user|>\nAnd then?<|end|>\n<|assistant|>\n3 comes.<|end|>\n"
    "</s>",
}

PROMPTED = {
    "chatml": "<|im_start|>assistant\n",
    "llama2": " [/INST]",
    "llama3": "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": " [/INST]",
    "zephyr": "<|assistant|>\n",
    "alpaca": "### Response:",
    "vicuna": "ASSISTANT:",
    "gemma": "<start_of_turn>model\n",
    "phi3": "<|assistant|>\n",
}


def render(name: str, chat: list, **more):
    """As published: BOS and EOS are <s> and </s>, and every mark is a token."""
    template = chat_templates.path(name).read_text(encoding="utf-8")
    texts, spans = render_jinja_template(
        conversations=[chat],
        chat_template=template,
        bos_token="<s>",
        eos_token="</s>",
        return_assistant_tokens_mask=True,
        **more,
    )
    return texts[0], [texts[0][begin:end] for begin, end in spans[0]]


def test_every_template_is_shown_here():
    assert set(chat_templates.names()) == set(RENDERED) == set(PROMPTED)


@pytest.mark.parametrize("name", RENDERED)
def test_what_it_writes_and_what_it_marks(name: str):
    text, marked = render(name, TALK)
    assert text == RENDERED[name]
    ends = {"chatml": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"} | {
        "phi3": "<|end|>",
        "llama2": " </s>",
    }
    spaced = " " if name in ("llama2", "mistral", "vicuna") else ""
    end = ends.get(name, "</s>")
    assert marked == [f"{spaced}2 comes.{end}", f"{spaced}3 comes.{end}"]


@pytest.mark.parametrize("name", PROMPTED)
def test_a_prompt_is_the_beginning_of_what_was_trained(name: str):
    prompt, _ = render(name, TALK[:4], add_generation_prompt=True)
    assert prompt.endswith(PROMPTED[name])
    assert RENDERED[name].startswith(prompt)


@pytest.mark.parametrize(("name", "theirs"), [("llama3", "llama3"), ("gemma", "gemma3")])
@pytest.mark.parametrize("chat", [TALK, NO_SYSTEM, TALK[:2]], ids=["system", "plain", "question"])
def test_it_writes_what_the_models_own_template_writes(name: str, theirs: str, chat: list):
    pytest.importorskip("trl")
    own = importlib.resources.files("trl") / "chat_templates" / f"{theirs}.jinja"
    for answer_next in (False, True):
        texts, _ = render_jinja_template(
            conversations=[chat],
            chat_template=own.read_text(encoding="utf-8"),
            bos_token="<s>",
            eos_token="</s>",
            add_generation_prompt=answer_next,
        )
        assert render(name, chat, add_generation_prompt=answer_next)[0] == texts[0]


def test_phi3_writes_what_its_own_template_writes():
    pytest.importorskip("trl")
    own = importlib.resources.files("trl") / "chat_templates" / "phi3.jinja"
    for answer_next in (False, True):
        texts, _ = render_jinja_template(
            conversations=[TALK],
            chat_template=own.read_text(encoding="utf-8"),
            eos_token="</s>",
            add_generation_prompt=answer_next,
        )
        assert render("phi3", TALK, add_generation_prompt=answer_next)[0] == texts[0]


def test_alpaca_and_vicuna_open_with_their_own_sentences():
    assert render("alpaca", NO_SYSTEM)[0].startswith(
        f"{ALPACA}### Instruction:\nWhat comes after 1?\n\n### Response:2 comes.</s>"
    )
    assert render("vicuna", NO_SYSTEM)[0].startswith(f"{VICUNA}USER: What comes after 1? ASSIST")


def test_alpaca_writes_the_input_apart():
    asked = {"role": "user", "content": "Add.\n\n1 2", "instruction": "Add.", "input": "1 2"}
    text, _ = render("alpaca", [asked, TALK[2]])
    assert text.endswith("### Instruction:\nAdd.\n\n### Input:\n1 2\n\n### Response:2 comes.</s>")
    assert "paired with an input" in text


TOOL = {"type": "function", "function": {"name": "add", "description": "Adds.", "parameters": {}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1, "b": 2}}}
TOOL_TALK = [
    {"role": "user", "content": "1 + 2?"},
    {"role": "assistant", "tool_calls": [CALL, CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]


def test_chatml_writes_tools_and_calls():
    text, marked = render("chatml", TOOL_TALK, tools=[TOOL])
    assert f"<tools>\n{json.dumps(TOOL)}\n</tools>" in text
    assert text.startswith("<|im_start|>system\n# Tools")
    call = '<tool_call>\n{"name": "add", "arguments": {"a": 1, "b": 2}}\n</tool_call>\n'
    assert marked == [f"{call}{call}<|im_end|>", "It is 3.<|im_end|>"]
    assert "<|im_start|>tool\n3<|im_end|>\n" in text


def test_chatml_joins_tools_to_a_system_turn():
    text, _ = render("chatml", TALK[:1] + TOOL_TALK, tools=[TOOL])
    assert text.startswith("<|im_start|>system\nBe brief.\n\n# Tools")
    assert text.count("<|im_start|>system") == 1


@pytest.mark.parametrize("name", sorted(set(RENDERED) - {"chatml"}))
def test_the_others_refuse_tools_rather_than_leave_them_out(name: str):
    with pytest.raises(Exception, match="no form for tools"):
        render(name, NO_SYSTEM, tools=[TOOL])
    with pytest.raises(Exception, match="tool calls"):
        render(name, TOOL_TALK[:2])


@pytest.mark.parametrize("name", ["llama2", "mistral", "alpaca", "vicuna", "gemma"])
@pytest.mark.parametrize(
    "chat",
    [
        [TALK[1], TALK[3]],
        [TALK[2]],
        [TALK[1], {"role": "tool", "content": "x"}],
        [*TALK[1:3], *TALK[:1]],
    ],
    ids=["two users", "assistant first", "tool", "late system"],
)
def test_turns_that_do_not_alternate_are_refused(name: str, chat: list):
    with pytest.raises(Exception, match="must alternate"):
        render(name, chat)


class TestGiven:
    """To a tokenizer."""

    @pytest.mark.parametrize("name", ["chatml", "llama3", "gemma", "phi3"])
    def test_marks_that_are_no_tokens_are_closed_by_the_end_token(self, name: str, gpt2_like: Path):
        tokenizer = AutoTokenizer.from_pretrained(gpt2_like)
        size = len(tokenizer)
        set_chat_template(tokenizer, name, chats=True)
        text = tokenizer.apply_chat_template(NO_SYSTEM, tokenize=False)
        assert text.count("comes.<") == text.count("><|endoftext|>") == 2
        assert not text.rstrip().endswith("<|endoftext|><|endoftext|>"), "never two ends"
        assert stop_ids(tokenizer) == [tokenizer.eos_token_id]
        assert len(tokenizer) == size, "no token was added"

    @pytest.mark.parametrize("name", sorted(RENDERED))
    def test_an_answer_stops_with_one_token(self, name: str, llama_like: Path):
        tokenizer = AutoTokenizer.from_pretrained(llama_like)
        set_chat_template(tokenizer, name, chats=True)
        assert stop_ids(tokenizer) == [tokenizer.eos_token_id]

    def test_a_mark_that_is_a_token_ends_the_turn(self, llama_like: Path):
        tokenizer = AutoTokenizer.from_pretrained(llama_like)
        tokenizer.add_special_tokens({"additional_special_tokens": ["<|end|>"]})
        set_chat_template(tokenizer, "phi3", chats=True)
        end = tokenizer.convert_tokens_to_ids("<|end|>")
        assert stop_ids(tokenizer) == [end, tokenizer.eos_token_id], "not the end token behind it"
        assert "<|end|></s>" not in tokenizer.apply_chat_template(TALK, tokenize=False)

    @pytest.mark.parametrize("name", ["chatml", "alpaca", "vicuna"])
    def test_bos_where_the_tokenizer_begins_texts_with_it(
        self, name: str, llama_like: Path, gpt2_like: Path
    ):
        with_bos, without = map(AutoTokenizer.from_pretrained, (llama_like, gpt2_like))
        for tokenizer in (with_bos, without):
            set_chat_template(tokenizer, name, chats=True)
        assert with_bos.apply_chat_template(TALK, tokenize=False).startswith("<s>")
        bare = without.apply_chat_template(TALK, tokenize=False)
        assert not bare.startswith(without.bos_token or "<|endoftext|>")
        assert with_bos.apply_chat_template(TALK, tokenize=False).count("<s>") == 1

    def test_without_any_end_there_is_no_template(self, gpt2_like: Path):
        tokenizer = AutoTokenizer.from_pretrained(gpt2_like)
        tokenizer.eos_token = None
        with pytest.raises(ValueError, match=r"neither <\|im_end\|> nor an end token"):
            named_template(tokenizer, "chatml")
        with pytest.raises(ValueError, match="no end token, so no answer in the form of zephyr"):
            named_template(tokenizer, "zephyr")

    def test_auto_a_name_or_a_path(self, tmp_path: Path, gpt2_like: Path):
        tokenizer = AutoTokenizer.from_pretrained(gpt2_like)
        set_chat_template(tokenizer, "auto", chats=False)
        assert tokenizer.chat_template is None
        set_chat_template(tokenizer, "auto", chats=True)
        assert tokenizer.chat_template == named_template(tokenizer, "chatml")
        set_chat_template(tokenizer, "zephyr", chats=False)
        assert "<|user|>" in tokenizer.apply_chat_template(TALK, tokenize=False)
        (tmp_path / "own.jinja").write_text("ä{{ messages[0].content }}", encoding="utf-8")
        set_chat_template(tokenizer, str(tmp_path / "own.jinja"), chats=True)
        assert tokenizer.apply_chat_template(TALK, tokenize=False) == "äBe brief."


def test_names_are_known_without_any_library():
    program = (
        "import sys; from llmforge.sources import chat_templates;"
        "print(*chat_templates.names()); "
        "print(any(m in sys.modules for m in ('jinja2', 'torch', 'transformers', 'numpy')))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [*sorted(RENDERED), "False"]


def test_an_unknown_name_is_told_the_known_ones():
    with pytest.raises(KeyError, match="chatml, gemma"):
        chat_templates.path("chat-ml")
