"""A filled form is what the template itself writes, whatever the contents are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.utils.chat_template_utils import render_jinja_template

from llmforge.build.forms import Forms
from llmforge.build.templates import VERBATIM, is_verbatim
from llmforge.sources import chat_templates

contents = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    st.sampled_from(["", " \n", "{{ x }}", "<|im_end|>", "\ue000\ue001", "</s>", "assistant"]),
)
answered = st.lists(st.tuples(contents, contents), max_size=3)


def rendered(name: str, chat: list[dict[str, Any]]) -> Any:
    texts, spans = render_jinja_template(
        conversations=[chat],
        chat_template="{%- set closing = eos_token -%}" + source(name),
        bos_token="<s>",
        eos_token="</s>",
        return_assistant_tokens_mask=True,
    )
    return texts[0], spans[0]


def source(name: str) -> str:
    return chat_templates.path(name).read_text(encoding="utf-8")


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(VERBATIM), contents, answered, contents, st.booleans())
def test_filled_or_rendered_is_the_same(name, system, pairs, question, with_system):
    chat = [{"role": "system", "content": system}] * with_system
    for asked, answer in pairs:
        chat += [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]
    chat += [{"role": "user", "content": question}]
    forms = Forms(lambda messages: rendered(name, messages))
    text, _ = forms.fill([{"role": turn["role"], "content": "other"} for turn in chat])
    assert "other" in text
    assert forms.fill(chat) == rendered(name, chat)


def test_templates_that_change_contents_are_not_among_them():
    for name in chat_templates.names():
        trimmed = rendered(name, [{"role": "user", "content": "  a  "}])[0]
        assert is_verbatim(source(name)) == (name in VERBATIM)
        if name in VERBATIM:
            assert "  a  " in trimmed


def test_a_template_is_asked_once_for_all_chats_of_the_same_turns():
    asked = []

    def render(messages: Any) -> Any:
        asked.append(messages)
        return rendered("chatml", messages)

    forms = Forms(render)
    for content in ("a", "b", "c"):
        forms.fill([{"role": "user", "content": content, "train": True}])
    assert len(asked) == 1


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "a", "tool_calls": []},
        {"role": "assistant", "tool_calls": [{"name": "add"}]},
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "a"}]},
        {"role": 1, "content": "a"},
        {"content": "a"},
    ],
)
def test_messages_that_hold_anything_else_are_left_to_the_template(message: Any):
    assert Forms(lambda messages: rendered("chatml", messages)).fill([message]) is None


def test_what_the_template_refuses_has_no_form():
    forms = Forms(lambda _: None)
    assert forms.fill([{"role": "user", "content": "a"}]) is None
