"""Which tokens carry loss, token by token."""

from __future__ import annotations

from typing import Any

import pytest

from llmforge.build.data import Row
from llmforge.build.errors import DataRefused
from llmforge.build.sample import IGNORED, Rejected, Sample, fit
from llmforge.build.templates import stop_ids
from llmforge.build.tokenize import chat_sample, completion_sample, lm_sample
from llmforge.build.tokenizer import make_tokenizer

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What comes after 1?"},
    {"role": "assistant", "content": "2 comes."},
    {"role": "user", "content": "And then?"},
    {"role": "assistant", "content": "3 comes."},
]


def rows_of(*values: dict[str, Any]) -> list[Row]:
    return [Row("data.jsonl", line, found) for line, found in enumerate(values, 1)]


def trained_runs(sample: Sample | Rejected, tokenizer: Any) -> list[str]:
    """Text of each unbroken run of tokens with loss."""
    assert isinstance(sample, Sample)
    assert len(sample.ids) == len(sample.labels)
    runs: list[list[int]] = [[]]
    for id_, label in zip(sample.ids, sample.labels, strict=True):
        assert label in (id_, IGNORED), "a label is its own token or nothing"
        runs[-1].append(label) if label != IGNORED else runs.append([])
    return [tokenizer.decode(run) for run in runs if run]


def tokenizer_for(plan: Any, rows: list[Row]) -> Any:
    return make_tokenizer(plan, rows)


class TestChat:
    def test_assistant_turns_and_their_ends_carry_loss_and_nothing_else(self, make_plan):
        plan, rows = make_plan(), rows_of({"messages": TALK})
        tokenizer = tokenizer_for(plan, rows)
        [sample] = chat_sample(rows, tokenizer, plan)
        assert tokenizer.decode(sample.ids) == (
            "<|im_start|>system\nBe brief.<|im_end|>\n"
            "<|im_start|>user\nWhat comes after 1?<|im_end|>\n"
            "<|im_start|>assistant\n2 comes.<|im_end|>\n"
            "<|im_start|>user\nAnd then?<|im_end|>\n"
            "<|im_start|>assistant\n3 comes.<|im_end|>\n"
        )
        assert trained_runs(sample, tokenizer) == ["2 comes.<|im_end|>", "3 comes.<|im_end|>"]

    def test_last_turn_only(self, make_plan):
        plan, rows = make_plan({"collator.turns": "last"}), rows_of({"messages": TALK})
        tokenizer = tokenizer_for(plan, rows)
        [sample] = chat_sample(rows, tokenizer, plan)
        assert trained_runs(sample, tokenizer) == ["3 comes.<|im_end|>"]
        assert "2 comes." in tokenizer.decode(sample.ids), "earlier answers stay as context"

    def test_what_is_shown_as_prompt(self, make_plan):
        plan, rows = make_plan(), rows_of({"messages": TALK}, {"messages": TALK[1:3]})
        long, short = chat_sample(rows, tokenizer_for(plan, rows), plan)
        assert short.prompt == "What comes after 1?"
        assert long.prompt.endswith("assistant: 2 comes.\nuser: And then?")

    def test_an_answer_that_repeats_the_question_is_found_by_place(self, make_plan):
        talk = [{"role": "user", "content": "yes"}, {"role": "assistant", "content": "yes"}]
        plan, rows = make_plan(), rows_of({"messages": talk})
        tokenizer = tokenizer_for(plan, rows)
        [sample] = chat_sample(rows, tokenizer, plan)
        assert trained_runs(sample, tokenizer) == ["yes<|im_end|>"]
        assert sample.labels.index(sample.ids[-3]) == len(sample.ids) - 3

    def test_rows_without_an_answer_are_rejected_with_the_reason(self, make_plan):
        plan = make_plan()
        rows = rows_of(
            {"messages": TALK[:2]},
            {"messages": [TALK[1], {"role": "assistant", "content": "  "}]},
            {"messages": TALK},
        )
        silent, blank, good = chat_sample(rows, tokenizer_for(plan, rows), plan)
        assert silent == Rejected("no_trained_token")
        assert blank == Rejected("empty")
        assert isinstance(good, Sample)

    def test_no_marks_in_the_vocabulary_ends_turns_with_the_end_token(self, make_plan, gpt2_like):
        plan = make_plan({"tokenizer.source": str(gpt2_like)})
        rows = rows_of({"messages": TALK[1:]})
        tokenizer = tokenizer_for(plan, rows)
        before = len(tokenizer)
        [sample] = chat_sample(rows, tokenizer, plan)
        assert trained_runs(sample, tokenizer) == [
            "2 comes.<|im_end|><|endoftext|>",
            "3 comes.<|im_end|><|endoftext|>",
        ]
        assert stop_ids(tokenizer) == [tokenizer.eos_token_id]
        assert len(tokenizer) == before == 281, "no token was added"

    def test_chatml_begins_with_bos_once_where_the_tokenizer_uses_one(self, make_plan, llama_like):
        plan, rows = make_plan({"tokenizer.source": str(llama_like)}), rows_of({"messages": TALK})
        tokenizer = tokenizer_for(plan, rows)
        [sample] = chat_sample(rows, tokenizer, plan)
        assert sample.ids[0] == tokenizer.bos_token_id
        assert sample.ids.count(tokenizer.bos_token_id) == 1

    def test_a_template_that_rewrites_earlier_turns_is_refused_for_all_turns(
        self, make_plan, tmp_path
    ):
        # what reasoning models do: the last answer is written in another way than earlier ones
        template = tmp_path / "thinking.jinja"
        template.write_text(
            "{% for m in messages %}<|im_start|>{{ m.role }}\n"
            "{% if loop.last and m.role == 'assistant' %}(thought){% endif %}"
            "{{ m.content }}<|im_end|>\n{% endfor %}"
            "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
        )
        settings = {"tokenizer.chat_template": str(template)}
        plan, rows = make_plan(settings), rows_of({"messages": TALK})
        tokenizer = tokenizer_for(plan, rows)
        with pytest.raises(DataRefused, match=r"data.jsonl:1: .* collator.turns=last"):
            chat_sample(rows, tokenizer, plan)
        plan = make_plan(settings | {"collator.turns": "last"})
        [sample] = chat_sample(rows, tokenizer, plan)
        assert trained_runs(sample, tokenizer) == ["(thought)3 comes.<|im_end|>"]

    def test_a_row_that_the_template_refuses_is_named(self, make_plan, tmp_path):
        template = tmp_path / "strict.jinja"
        template.write_text(
            "{% for m in messages %}{% if m.role == 'system' %}"
            "{{ raise_exception('no system turns here') }}{% endif %}"
            "{{ m.role }}: {{ m.content }}{{ eos_token }}{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
        plan = make_plan({"tokenizer.chat_template": str(template)})
        rows = rows_of({"messages": TALK[1:]}, {"messages": TALK})
        with pytest.raises(DataRefused, match=r"data.jsonl:2: .*no system turns here"):
            chat_sample(rows, tokenizer_for(plan, rows), plan)

    def test_a_template_that_leaves_the_last_answer_open_is_closed(self, make_plan, tmp_path):
        template = tmp_path / "open.jinja"
        template.write_text(
            "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}"
            "{% if add_generation_prompt %}assistant: {% endif %}"
        )
        plan = make_plan({"tokenizer.chat_template": str(template)})
        rows = rows_of({"messages": TALK[1:3]})
        tokenizer = tokenizer_for(plan, rows)
        [sample] = chat_sample(rows, tokenizer, plan)
        assert sample.labels[-1] == tokenizer.eos_token_id


class TestCompletion:
    @pytest.mark.parametrize(
        ("prompt", "completion", "whole", "trained"),
        [
            ("What?", "yes", "What?\nyes", "\nyes"),
            ("What?\n", "yes", "What?\nyes", "\nyes"),
            ("What?", " yes", "What? yes", " yes"),
            ("What? ", "yes", "What? yes", " yes"),
            ("", "yes", "yes", "yes"),
        ],
    )
    def test_all_from_the_prompts_last_character_on_carries_loss(
        self, make_plan, gpt2_like, prompt, completion, whole, trained
    ):
        plan = make_plan({"tokenizer.source": str(gpt2_like), "collator.kind": "completion"})
        rows = rows_of({"prompt": prompt, "completion": completion})
        tokenizer = tokenizer_for(plan, rows)
        [sample] = completion_sample(rows, tokenizer, plan)
        assert tokenizer.decode(sample.ids) == whole + "<|endoftext|>"
        assert trained_runs(sample, tokenizer) == [trained + "<|endoftext|>"]

    def test_end_token_is_trained_though_it_pads_as_well(self, make_plan, gpt2_like):
        plan = make_plan({"tokenizer.source": str(gpt2_like), "collator.kind": "completion"})
        rows = rows_of({"prompt": "What?", "completion": "yes"})
        tokenizer = tokenizer_for(plan, rows)
        [sample] = completion_sample(rows, tokenizer, plan)
        assert tokenizer.pad_token_id == tokenizer.eos_token_id == sample.labels[-1]

    def test_bos_once_and_masked(self, make_plan, llama_like):
        plan = make_plan({"tokenizer.source": str(llama_like), "collator.kind": "completion"})
        rows = rows_of(
            {"prompt": "What?", "completion": "yes"},
            {"prompt": "<s>What?", "completion": "yes</s>"},
        )
        tokenizer = tokenizer_for(plan, rows)
        plain, written = completion_sample(rows, tokenizer, plan)
        assert plain.ids == written.ids, "marks that the text brings are not doubled"
        assert plain.ids.count(tokenizer.bos_token_id) == 1
        assert plain.labels[0] == IGNORED
        assert plain.labels[-1] == tokenizer.eos_token_id

    def test_an_empty_completion_is_rejected(self, make_plan, gpt2_like):
        plan = make_plan({"tokenizer.source": str(gpt2_like), "collator.kind": "completion"})
        rows = rows_of({"prompt": "What?", "completion": " \n"})
        assert completion_sample(rows, tokenizer_for(plan, rows), plan) == [Rejected("empty")]


class TestLm:
    def test_every_token_and_the_end_token(self, make_plan, llama_like):
        plan = make_plan({"tokenizer.source": str(llama_like), "collator.kind": "lm"})
        rows = rows_of({"text": "yes and no"}, {"text": " \n"})
        tokenizer = tokenizer_for(plan, rows)
        sample, blank = lm_sample(rows, tokenizer, plan)
        assert sample.labels == sample.ids
        assert sample.ids[0] == tokenizer.bos_token_id
        assert sample.ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(sample.ids[1:-1]) == "yes and no"
        assert blank == Rejected("empty")


class TestFit:
    SAMPLE = Sample([1, 2, 3, 4, 5, 6], [IGNORED, IGNORED, 3, 4, 5, 6])

    def test_short_enough_is_left_alone(self):
        assert fit(self.SAMPLE, 6, "drop") is self.SAMPLE

    def test_right_cuts_the_end(self):
        assert fit(self.SAMPLE, 4, "right") == Sample([1, 2, 3, 4], [IGNORED, IGNORED, 3, 4])

    def test_left_cuts_the_start(self):
        assert fit(self.SAMPLE, 3, "left") == Sample([4, 5, 6], [4, 5, 6])

    def test_drop_rejects(self):
        assert fit(self.SAMPLE, 5, "drop") == Rejected("over_max_length")

    def test_nothing_left_to_train_is_rejected(self):
        assert fit(self.SAMPLE, 2, "right") == Rejected("no_trained_token")

    def test_a_label_at_the_first_place_is_never_predicted(self):
        assert fit(Sample([3], [3]), 8, "right") == Rejected("no_trained_token")


def test_rows_of_another_shape_are_refused_by_name(make_plan):
    plan, texts, chats = make_plan(), rows_of({"text": "a"}), rows_of({"messages": TALK})
    tokenizer = tokenizer_for(plan, texts)
    with pytest.raises(DataRefused, match=r"jsonl:1: .* needs prompt and completion, .* messages"):
        completion_sample(chats, tokenizer, plan)
    with pytest.raises(DataRefused, match=r"needs prompt and completion, the row holds text"):
        chat_sample(texts, tokenizer, plan)


def test_prompt_and_completion_can_be_a_chat(make_plan):
    plan, rows = make_plan(), rows_of({"prompt": "What?", "completion": "yes"})
    tokenizer = tokenizer_for(plan, rows)
    [sample] = chat_sample(rows, tokenizer, plan)
    assert trained_runs(sample, tokenizer) == ["yes<|im_end|>"]
    assert sample.prompt == "What?"


def test_chats_can_be_trained_whole(make_plan):
    plan, rows = make_plan(), rows_of({"messages": TALK})
    tokenizer = tokenizer_for(plan, rows)
    [sample] = lm_sample(rows, tokenizer, plan)
    assert sample.labels == sample.ids
    assert sample.ids == chat_sample(rows, tokenizer, plan)[0].ids


def test_samples_do_not_depend_on_the_batch_they_are_made_in(make_plan):
    plan = make_plan()
    rows = rows_of({"messages": TALK}, {"messages": TALK[:2]}, {"messages": TALK[1:3]})
    tokenizer = tokenizer_for(plan, rows)
    together = chat_sample(rows, tokenizer, plan)
    alone = [chat_sample([row], tokenizer, plan)[0] for row in rows]
    assert together == alone


def test_a_tokenizer_that_brings_its_own_truncation_does_not_cut(make_plan):
    plan, rows = make_plan(), rows_of({"messages": TALK})
    tokenizer = tokenizer_for(plan, rows)
    whole = chat_sample(rows, tokenizer, plan)
    tokenizer.backend_tokenizer.enable_truncation(5)
    assert chat_sample(rows, tokenizer, plan) == whole
