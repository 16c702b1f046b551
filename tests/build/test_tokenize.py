"""Which tokens carry loss, token by token."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from llmforge import registry
from llmforge.build.errors import DataRefused
from llmforge.build.sample import IGNORED, Rejected, Sample
from llmforge.build.templates import set_chat_template, stop_ids
from llmforge.build.tokenize import (
    begin,
    chat_sample,
    completion_sample,
    lm_sample,
    samples_ahead,
)
from llmforge.build.tokenizer import train_tokenizer
from llmforge.sources.base import Row

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What comes after 1?"},
    {"role": "assistant", "content": "2 comes."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "3 comes."},
]

TOOL = {"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}
TOOL_TALK = [
    {"role": "user", "content": "1 + 2?", "tool_calls": None},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "content": "3"},
    {"role": "assistant", "content": "It is 3."},
]

ASKED = {"instruction": "Add.", "input": "1 2", "output": "3"}
BARE = {"instruction": "Say yes.", "input": "", "output": "yes"}

PARTS = {"text_parts": ["one", "two", "yes"]}

PLAIN = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML without generation marks, as most published templates are."""


def plan_of(kind: str, **changes: Any) -> Any:
    """A plan as far as the builders of samples read it: the settings of the collator."""
    values = {
        "kind": kind,
        "max_length": 64,
        "truncation": "right",
        "packing": "none",
        "pad_to_multiple": 8,
    }
    own = {
        "chat": {"turns": "all", "train_end_of_turn": True},
        "completion": {"prefix_end": None, "separator": "\n"},
        "lm": {"separator": "\n"},
    }
    spec = registry.component("collator", kind).spec(**values | own[kind] | changes)
    return SimpleNamespace(spec=SimpleNamespace(collator=spec))


CHAT = plan_of("chat")


def rows_of(*values: dict[str, Any]) -> list[Row]:
    return [Row("data.jsonl", line, found) for line, found in enumerate(values, 1)]


def trained_runs(sample: Sample | Rejected, tokenizer: Any) -> list[str]:
    """Text of each unbroken run of tokens with loss."""
    assert isinstance(sample, Sample), sample
    assert len(sample.ids) == len(sample.labels)
    assert sample.labels[0] == IGNORED
    runs: list[list[int]] = [[]]
    for id_, label in zip(sample.ids, sample.labels, strict=True):
        assert label in (id_, IGNORED), "a label is its own token or nothing"
        runs[-1].append(int(label)) if label != IGNORED else runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


def opened(folder: Path, template: str = "auto") -> Any:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    set_chat_template(tokenizer, template, chats=True)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """Trained, with ChatML's marks as tokens."""
    made = train_tokenizer([turn["content"] for turn in TALK] * 3, 300, 64)
    set_chat_template(made, "auto", chats=True)
    return made


@pytest.fixture
def with_template(tokenizer: Any) -> Any:
    """`with_template("{% for ...")`: the same tokenizer with another template."""
    own = tokenizer.chat_template

    def make(template: str) -> Any:
        tokenizer.chat_template = template
        return tokenizer

    yield make
    tokenizer.chat_template = own


@pytest.fixture
def gpt2(gpt2_like: Path) -> Any:
    return opened(gpt2_like)


@pytest.fixture
def llama(llama_like: Path) -> Any:
    return opened(llama_like)


class TestChat:
    @pytest.mark.parametrize("marked", [True, False], ids=["marks", "prefixes"])
    def test_assistant_turns_and_their_ends_carry_loss_and_nothing_else(
        self, tokenizer, with_template, marked
    ):
        if not marked:
            with_template(PLAIN)
        [sample] = chat_sample(rows_of({"messages": TALK}), tokenizer, CHAT)
        assert tokenizer.decode(sample.ids) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nWhat comes after 1?<|im_end|>\n"
            "<|im_start|>assistant\n2 comes.<|im_end|>\n"
            "<|im_start|>user\nAnd then?<|im_end|>\n"
            "<|im_start|>assistant\n3 comes.<|im_end|>\n"
        )
        assert trained_runs(sample, tokenizer) == ["2 comes.<|im_end|>", "3 comes.<|im_end|>"]

    @pytest.mark.parametrize("marked", [True, False], ids=["marks", "prefixes"])
    def test_last_turn_only(self, tokenizer, with_template, marked):
        if not marked:
            with_template(PLAIN)
        plan = plan_of("chat", turns="last")
        [sample] = chat_sample(rows_of({"messages": TALK}), tokenizer, plan)
        assert trained_runs(sample, tokenizer) == ["3 comes.<|im_end|>"]
        assert "2 comes." in tokenizer.decode(sample.ids), "earlier answers stay as context"

    @pytest.mark.parametrize("flag", [True, 1])
    def test_flagged_turns_only(self, tokenizer, flag):
        flagged = [TALK[1], {**TALK[2], "train": flag}, TALK[3], {**TALK[4], "train": False}]
        users = [{**TALK[1], "train": True}, TALK[2]]
        plan = plan_of("chat", turns="flagged")
        rows = rows_of({"messages": flagged}, {"messages": TALK}, {"messages": users})
        some, none, asked = chat_sample(rows, tokenizer, plan)
        assert trained_runs(some, tokenizer) == ["2 comes.<|im_end|>"]
        assert none == asked == Rejected("no_trained_token")

    @pytest.mark.parametrize("marked", [True, False], ids=["marks", "prefixes"])
    def test_ends_of_turns_can_be_masked(self, tokenizer, with_template, marked):
        if not marked:
            with_template(PLAIN)
        plan = plan_of("chat", train_end_of_turn=False)
        [sample] = chat_sample(rows_of({"messages": TALK}), tokenizer, plan)
        assert trained_runs(sample, tokenizer) == ["2 comes.", "3 comes."]

    def test_an_end_that_the_marks_leave_out_is_learnt_all_the_same(self, tokenizer, with_template):
        with_template(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
            "{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{% endif %}"
            "<|im_end|>\n{% endfor %}"
        )
        rows = rows_of({"messages": TALK})
        [learnt] = chat_sample(rows, tokenizer, CHAT)
        [masked] = chat_sample(rows, tokenizer, plan_of("chat", train_end_of_turn=False))
        assert trained_runs(learnt, tokenizer) == ["2 comes.<|im_end|>", "3 comes.<|im_end|>"]
        assert trained_runs(masked, tokenizer) == ["2 comes.", "3 comes."]

    def test_marks_that_leave_out_a_turn_are_refused(self, tokenizer, with_template):
        with_template(
            "{% for m in messages %}{% if loop.last %}{% generation %}{{ m.content }}"
            "{% endgeneration %}{% else %}{{ m.content }}{% endif %}<|im_end|>{% endfor %}"
        )
        [found] = chat_sample(rows_of({"messages": TALK}), tokenizer, CHAT)
        assert found.reason == "template"
        assert "enclose 1 of 2 assistant turns" in found.detail

    def test_answers_marked_in_pieces_are_told_apart(self, tokenizer, with_template):
        with_template(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n{% if m.role == 'assistant' %}"
            "{% generation %}{{ m.content }}{% endgeneration %}{% generation %}<|im_end|>"
            "{% endgeneration %}{% else %}{{ m.content }}<|im_end|>{% endif %}\n{% endfor %}"
        )
        rows = rows_of({"messages": [TALK[1], {**TALK[2], "train": True}, *TALK[3:]]})
        [flagged] = chat_sample(rows, tokenizer, plan_of("chat", turns="flagged"))
        [last] = chat_sample(rows, tokenizer, plan_of("chat", turns="last"))
        assert trained_runs(flagged, tokenizer) == ["2 comes.<|im_end|>"]
        assert trained_runs(last, tokenizer) == ["3 comes.<|im_end|>"]

    def test_what_is_shown_as_prompt(self, tokenizer):
        rows = rows_of({"messages": TALK}, {"messages": TALK[1:3]})
        long, short = chat_sample(rows, tokenizer, CHAT)
        assert short.prompt == "What comes after 1?"
        assert long.prompt.endswith("assistant: 2 comes.\nuser: And then?")

    def test_an_answer_that_repeats_the_question_is_found_by_place(self, tokenizer):
        talk = [{"role": "user", "content": "yes"}, {"role": "assistant", "content": "yes"}]
        [sample] = chat_sample(rows_of({"messages": talk}), tokenizer, CHAT)
        assert trained_runs(sample, tokenizer) == ["yes<|im_end|>"]
        assert tokenizer.decode(sample.ids[sample.labels == IGNORED]).count("yes") == 1

    def test_a_mark_inside_of_an_answer_does_not_end_it(self, tokenizer):
        talk = [TALK[1], {"role": "assistant", "content": "<|im_start|>2 comes."}]
        [sample] = chat_sample(rows_of({"messages": talk}), tokenizer, CHAT)
        assert trained_runs(sample, tokenizer) == ["<|im_start|>2 comes.<|im_end|>"]

    def test_rows_without_an_answer_are_rejected_with_the_reason(self, tokenizer):
        rows = rows_of(
            {"messages": TALK[:2]},
            {"messages": [TALK[1], {"role": "assistant", "content": "  "}]},
            {"messages": TALK},
        )
        silent, blank, good = chat_sample(rows, tokenizer, CHAT)
        assert silent == Rejected("no_trained_token")
        assert blank == Rejected("empty")
        assert isinstance(good, Sample)

    def test_no_marks_in_the_vocabulary_ends_turns_with_the_end_token(self, gpt2):
        [sample] = chat_sample(rows_of({"messages": TALK[1:]}), gpt2, CHAT)
        assert trained_runs(sample, gpt2) == [
            "2 comes.<|im_end|><|endoftext|>",
            "3 comes.<|im_end|><|endoftext|>",
        ]
        assert stop_ids(gpt2) == [gpt2.eos_token_id]
        assert len(gpt2) == 281, "no token was added"

    def test_chatml_begins_with_bos_once_where_the_tokenizer_uses_one(self, llama):
        [sample] = chat_sample(rows_of({"messages": TALK}), llama, CHAT)
        assert sample.ids[0] == llama.bos_token_id
        assert sample.ids.tolist().count(llama.bos_token_id) == 1

    def test_a_template_that_rewrites_earlier_turns_is_refused_for_all_turns(
        self, tokenizer, with_template
    ):
        # what reasoning models do: the last answer is written in another way than earlier ones
        with_template(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n"
            "{% if loop.last and m.role == 'assistant' %}(thought){% endif %}"
            "{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
        rows = rows_of({"messages": TALK})
        [refused] = chat_sample(rows, tokenizer, CHAT)
        assert refused.reason == "template"
        assert refused.detail.endswith("hint: collator.turns=last")
        [sample] = chat_sample(rows, tokenizer, plan_of("chat", turns="last"))
        assert trained_runs(sample, tokenizer) == ["(thought)3 comes.<|im_end|>"]

    def test_a_template_whose_prompt_is_not_its_replys_beginning(self, tokenizer, with_template):
        with_template(PLAIN.replace("assistant\n{% endif", "assistant: {% endif"))
        [refused] = chat_sample(rows_of({"messages": TALK[1:3]}), tokenizer, CHAT)
        assert "than its own generation prompt does" in refused.detail

    def test_an_end_token_behind_every_chat_is_no_other_way_of_writing(
        self, tokenizer, with_template
    ):
        # as Phi-3's own template has it
        with_template(PLAIN + "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}")
        [sample] = chat_sample(rows_of({"messages": TALK}), tokenizer, CHAT)
        assert tokenizer.decode(sample.ids).endswith("<|im_end|>\n<eos>")
        assert trained_runs(sample, tokenizer) == ["2 comes.<|im_end|>", "3 comes.<|im_end|>"]

    @pytest.mark.parametrize("marked", [True, False], ids=["marks", "prefixes"])
    def test_a_row_that_the_template_refuses_is_told_and_the_others_are_used(
        self, tokenizer, with_template, marked
    ):
        answer = "{% generation %}{{ m.content }}{{ eos_token }}{% endgeneration %}"
        with_template(
            "{% for m in messages %}{% if m.role == 'system' %}"
            "{{ raise_exception('no system turns here') }}{% endif %}{{ m.role }}: "
            + ("{% if m.role == 'assistant' %}" + answer + "{% else %}" if marked else "")
            + "{{ m.content }}{{ eos_token }}"
            + ("{% endif %}" if marked else "")
            + "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
        )
        rows = rows_of({"messages": TALK[1:]}, {"messages": TALK}, {"messages": TALK[1:3]})
        good, bad, short = chat_sample(rows, tokenizer, CHAT)
        assert trained_runs(good, tokenizer) == ["2 comes.<eos>", "3 comes.<eos>"]
        assert bad == Rejected(
            "template", "the chat template refuses the row: no system turns here"
        )
        assert trained_runs(short, tokenizer) == ["2 comes.<eos>"]

    def test_null_where_a_template_wants_text_is_told(self, tokenizer):
        talk = [{"role": "user", "content": None}, TALK[2]]
        [found] = chat_sample(rows_of({"messages": talk}), tokenizer, CHAT)
        assert found.reason == "template"
        assert "content" in found.detail

    def test_a_template_that_leaves_the_last_answer_open_is_closed(self, tokenizer, with_template):
        with_template(
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
        rows = rows_of({"messages": TALK[1:3]})
        [sample] = chat_sample(rows, tokenizer, CHAT)
        assert trained_runs(sample, tokenizer) == ["2 comes.\n<eos>"]
        [open_] = chat_sample(rows, tokenizer, plan_of("chat", train_end_of_turn=False))
        assert trained_runs(open_, tokenizer) == ["2 comes.\n"]

    def test_a_template_that_is_no_jinja_or_none_stops_the_run(
        self, tokenizer, with_template, gpt2
    ):
        rows = rows_of({"messages": TALK})
        with_template("{% for m in messages %}{{ m.content }}")
        with pytest.raises(DataRefused, match=r"data.jsonl:1: the chat template is no valid Jinja"):
            chat_sample(rows, tokenizer, CHAT)
        gpt2.chat_template = None
        with pytest.raises(
            DataRefused, match=r"no chat template; hint: tokenizer.chat_template=chatml"
        ):
            chat_sample(rows, gpt2, CHAT)


class TestTools:
    def test_calls_are_learnt_and_results_are_not(self, tokenizer):
        rows = rows_of({"messages": TOOL_TALK, "tools": [TOOL]})
        [sample] = chat_sample(rows, tokenizer, CHAT)
        assert trained_runs(sample, tokenizer) == [
            '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>\n<|im_end|>',
            "It is 3.<|im_end|>",
        ]
        assert '"parameters": {"type": "object"}' in tokenizer.decode(sample.ids)

    def test_a_call_alone_is_an_answer(self, tokenizer):
        [sample] = chat_sample(rows_of({"messages": TOOL_TALK[:2]}), tokenizer, CHAT)
        assert sample.trained > 5

    @pytest.mark.parametrize("row", [{"messages": TOOL_TALK}, {"messages": TOOL_TALK[:2]}])
    def test_a_template_that_leaves_calls_out_is_refused(self, tokenizer, with_template, row):
        with_template(PLAIN)
        [found] = chat_sample(rows_of(row), tokenizer, CHAT)
        assert found.reason == "template"
        assert "leaves out the tool call add" in found.detail

    def test_a_template_that_leaves_tools_out_is_refused(self, tokenizer, with_template):
        with_template(PLAIN)
        [found] = chat_sample(rows_of({"messages": TALK, "tools": [TOOL]}), tokenizer, CHAT)
        assert "leaves out the tool add" in found.detail


class TestInstruction:
    def test_as_a_chat_the_input_follows_a_blank_line(self, tokenizer):
        both, bare = chat_sample(rows_of(ASKED, BARE), tokenizer, CHAT)
        assert "user\nAdd.\n\n1 2<|im_end|>" in tokenizer.decode(both.ids)
        assert "user\nSay yes.<|im_end|>" in tokenizer.decode(bare.ids)
        assert trained_runs(both, tokenizer) == ["3<|im_end|>"]
        assert both.prompt == "Add.\n\n1 2"

    def test_alpaca_writes_it_its_own_way(self, llama_like):
        tokenizer = opened(llama_like, "alpaca")
        both, bare = chat_sample(rows_of(ASKED, BARE), tokenizer, CHAT)
        assert "### Instruction:\nAdd.\n\n### Input:\n1 2\n\n###" in tokenizer.decode(both.ids)
        assert "### Input" not in tokenizer.decode(bare.ids)
        assert trained_runs(both, tokenizer) == ["3</s>"]

    def test_as_text(self, gpt2):
        rows = rows_of(ASKED)
        [completion] = completion_sample(rows, gpt2, plan_of("completion"))
        [whole] = lm_sample(rows, gpt2, plan_of("lm"))
        assert gpt2.decode(whole.ids) == "Add.\n\n1 2\n3<|endoftext|>"
        assert whole.ids.tolist() == completion.ids.tolist()
        assert trained_runs(completion, gpt2) == ["\n3<|endoftext|>"]


class TestCompletion:
    PLAN = plan_of("completion")

    @pytest.mark.parametrize(
        ("prompt", "completion", "whole", "trained"),
        [
            ("What?", "yes", "What?\nyes", "\nyes"),
            ("What?\n", "yes", "What?\nyes", "\nyes"),
            ("What?", " yes", "What? yes", " yes"),
            ("What? ", "yes", "What? yes", " yes"),
            ("Größe?", " ä🙂 ja", "Größe? ä🙂 ja", " ä🙂 ja"),
        ],
    )
    def test_all_from_the_prompts_last_character_on_carries_loss(
        self, gpt2, prompt, completion, whole, trained
    ):
        rows = rows_of({"prompt": prompt, "completion": completion})
        [sample] = completion_sample(rows, gpt2, self.PLAN)
        assert gpt2.decode(sample.ids) == whole + "<|endoftext|>"
        assert trained_runs(sample, gpt2) == [trained + "<|endoftext|>"]

    def test_without_a_prompt_only_the_first_token_is_not_predicted(self, gpt2):
        [sample] = completion_sample(
            rows_of({"prompt": "", "completion": "no yes"}), gpt2, self.PLAN
        )
        assert trained_runs(sample, gpt2) == [" yes<|endoftext|>"]

    @pytest.mark.parametrize(
        ("marker", "trained"),
        [
            ("####", " yes"),
            ("#### ", " yes"),
            ("Answer", "\nsums up.\n#### yes"),
            (None, "\nsums up.\n#### yes"),
        ],
        ids=["marker", "its space", "not there", "none"],
    )
    def test_nothing_up_to_the_marker_carries_loss(self, gpt2, marker, trained):
        row = {"prompt": "####?", "completion": "sums up.\n#### yes"}
        [sample] = completion_sample(rows_of(row), gpt2, plan_of("completion", prefix_end=marker))
        assert trained_runs(sample, gpt2) == [trained + "<|endoftext|>"]
        shown = "####?\nsums up.\n####" if trained == " yes" else "####?"
        assert sample.prompt == shown

    def test_end_token_is_trained_though_it_pads_as_well(self, gpt2):
        rows = rows_of({"prompt": "What?", "completion": "yes"})
        [sample] = completion_sample(rows, gpt2, self.PLAN)
        assert gpt2.pad_token_id == gpt2.eos_token_id == sample.labels[-1]

    def test_bos_once_and_masked(self, llama):
        rows = rows_of(
            {"prompt": "What?", "completion": "yes"},
            {"prompt": "<s>What?", "completion": "yes</s>"},
        )
        plain, written = completion_sample(rows, llama, self.PLAN)
        assert plain.ids.tolist() == written.ids.tolist(), (
            "marks that the text brings are not doubled"
        )
        assert plain.ids.tolist().count(llama.bos_token_id) == 1
        assert plain.labels[0] == IGNORED
        assert plain.labels[-1] == llama.eos_token_id

    def test_an_empty_completion_is_rejected(self, gpt2):
        rows = rows_of({"prompt": "What?", "completion": " \n"}, {"text_parts": []})
        assert completion_sample(rows[:1], gpt2, self.PLAN) == [Rejected("empty")]
        assert completion_sample(rows[1:], gpt2, self.PLAN) == [Rejected("empty")]


class TestTextParts:
    @pytest.mark.parametrize(
        ("separator", "trained"),
        [("\n", "yes"), (" ", " yes"), ("\n--\n", "yes"), ("", "yes")],
    )
    def test_the_last_part_carries_loss(self, gpt2, separator, trained):
        plan = plan_of("completion", separator=separator)
        [sample] = completion_sample(rows_of(PARTS), gpt2, plan)
        assert gpt2.decode(sample.ids) == separator.join(["one", "two", "yes"]) + "<|endoftext|>"
        assert trained_runs(sample, gpt2) == [trained + "<|endoftext|>"]

    def test_lm_joins_them(self, gpt2):
        [sample] = lm_sample(rows_of(PARTS), gpt2, plan_of("lm", separator=" | "))
        assert gpt2.decode(sample.ids) == "one | two | yes<|endoftext|>"
        assert sample.trained == len(sample.ids) - 1


class TestLm:
    def test_every_token_but_the_first_and_the_end_token(self, llama):
        sample, blank = lm_sample(
            rows_of({"text": "yes and no"}, {"text": " \n"}), llama, plan_of("lm")
        )
        assert sample.labels[1:].tolist() == sample.ids[1:].tolist()
        assert sample.ids[0] == llama.bos_token_id
        assert sample.ids[-1] == llama.eos_token_id
        assert llama.decode(sample.ids[1:-1]) == "yes and no"
        assert blank == Rejected("empty")

    def test_chats_can_be_trained_whole(self, tokenizer):
        rows = rows_of({"messages": TALK})
        [sample] = lm_sample(rows, tokenizer, plan_of("lm"))
        assert sample.labels[1:].tolist() == sample.ids[1:].tolist()
        assert sample.ids.tolist() == chat_sample(rows, tokenizer, CHAT)[0].ids.tolist()

    def test_a_chat_that_the_template_refuses_is_told(self, tokenizer):
        [found] = lm_sample(rows_of({"messages": [{"role": "user"}]}), tokenizer, plan_of("lm"))
        assert found.reason == "template"


def test_rows_of_another_shape_are_refused_by_name(tokenizer):
    texts, chats = rows_of({"text": "a"}), rows_of({"messages": TALK})
    with pytest.raises(DataRefused, match=r"jsonl:1: .* needs prompt and completion, .* messages"):
        completion_sample(chats, tokenizer, plan_of("completion"))
    with pytest.raises(DataRefused, match=r"needs prompt and completion, .* the row holds text"):
        chat_sample(texts, tokenizer, CHAT)


def test_prompt_and_completion_can_be_a_chat(tokenizer):
    [sample] = chat_sample(rows_of({"prompt": "What?", "completion": "yes"}), tokenizer, CHAT)
    assert trained_runs(sample, tokenizer) == ["yes<|im_end|>"]
    assert sample.prompt == "What?"


class TestBatches:
    ROWS = rows_of({"messages": TALK}, {"messages": TALK[:2]}, {"messages": TALK[1:3]})

    def test_samples_do_not_depend_on_the_batch_they_are_made_in(self, tokenizer):
        together = chat_sample(self.ROWS, tokenizer, CHAT)
        assert together == [chat_sample([row], tokenizer, CHAT)[0] for row in self.ROWS]

    def test_nor_on_being_begun_ahead(self, tokenizer):
        batches = [self.ROWS[:2], [], self.ROWS[2:], self.ROWS]
        found = list(samples_ahead(chat_sample, batches, tokenizer, CHAT))
        assert [rows for rows, _ in found] == batches
        assert [made for _, made in found] == [
            chat_sample(rows, tokenizer, CHAT) for rows in batches
        ]

    def test_a_forked_process_begins_anew(self, tokenizer):
        # as the workers of a DataLoader are: the thread that encodes is not there any more
        begin(chat_sample, self.ROWS, tokenizer, CHAT)()
        with ProcessPoolExecutor(1, mp_context=get_context("fork")) as pool:
            made = pool.submit(_made_in_child, tokenizer).result(timeout=60)
        assert made == chat_sample(self.ROWS, tokenizer, CHAT)

    def test_a_plugins_builder_can_be_begun_as_well(self, tokenizer):
        def first_ids(rows, tokenizer, plan):
            return [Sample([1, 2], [IGNORED, 2], plan.spec.collator.kind) for _ in rows]

        assert (
            begin(first_ids, self.ROWS, tokenizer, CHAT)()
            == [Sample([1, 2], [IGNORED, 2], "chat")] * 3
        )

    def test_a_tokenizer_that_brings_its_own_truncation_does_not_cut(self, tokenizer):
        whole = chat_sample(self.ROWS, tokenizer, CHAT)
        tokenizer.backend_tokenizer.enable_truncation(5)
        assert chat_sample(self.ROWS, tokenizer, CHAT) == whole


def _made_in_child(tokenizer: Any) -> Any:
    return begin(chat_sample, TestBatches.ROWS, tokenizer, CHAT)()


# what a tokenizer's text may be: any characters but lone surrogates, which no tokenizer takes, and
# no mark of the templates
words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="<|"), max_size=12)
few = settings(
    max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@few
@given(st.lists(st.tuples(words, words), min_size=1, max_size=3), st.booleans())
def test_what_is_learnt_of_a_chat_is_what_the_assistant_says_and_the_ends(
    tokenizer, with_template, turns, marked
):
    if not marked:
        with_template(PLAIN)
    talk = [
        {"role": role, "content": content}
        for pair in turns
        for role, content in zip(("user", "assistant"), pair, strict=True)
    ]
    [sample] = chat_sample(rows_of({"messages": talk}), tokenizer, CHAT)
    answers = [answer for _, answer in turns]
    if not any(answer.strip() for answer in answers):
        assert sample == Rejected("empty")
        return
    learnt = sample.labels[sample.labels != IGNORED]
    text = tokenizer.decode(learnt)
    # a line break at the beginning of an answer shares a token with the one before it, if any does
    assert text.split("<|im_end|>")[:-1] == answers
    assert sample.trained == len(learnt)


@few
@given(words, words, st.sampled_from(["", " ", "\n", " \n"]))
def test_what_is_learnt_of_a_completion_begins_where_the_prompt_ends(
    gpt2_like, prompt, completion, space
):
    tokenizer = opened(gpt2_like)
    row = {"prompt": prompt + space, "completion": completion}
    [sample] = completion_sample(rows_of(row), tokenizer, plan_of("completion"))
    if not completion.strip():
        assert sample == Rejected("empty")
        return
    assert sample.labels[-1] == tokenizer.eos_token_id
    whole = tokenizer.decode(sample.ids[:-1])
    assert whole.startswith(prompt)
    assert whole.endswith(completion)
    [learnt] = trained_runs(sample, tokenizer)
    text = learnt.removesuffix("<|endoftext|>")
    given_ = (prompt + space).rstrip()
    if given_:
        assert whole == given_ + text
