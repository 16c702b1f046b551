"""Chats to text by the tokenizer's template, with the characters that the assistant wrote.

In: chats. Out: for each its text and, for each chosen answer, where it stands; or why not. Nothing
is raised for a row: what a template says of it is told in `Refusal`. Which answers carry loss, and
which of their tokens, is decided in `tokenize.py`.

A template with `{% generation %}` marks says itself what the assistant writes, in one rendering.
For others, what leads to an answer and what leads up to its end are rendered as well; both must
begin the whole.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from jinja2 import TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template

from llmforge.build.errors import DataRefused
from llmforge.build.forms import Forms
from llmforge.build.templates import is_verbatim

Messages = list[dict[str, Any]]
Spans = list[tuple[int, int]]
"""First and one-past-last character of each."""

_MARKED = re.compile(r"\{%-?\s*generation\s*-?%\}")


class Chat(NamedTuple):
    """A chat and which of its answers are looked for."""

    place: str
    """`file:line`, for messages."""
    messages: Messages
    """Without keys whose value is null: templates ask whether a key is there."""
    answers: list[int]
    """Numbers of the messages to be found, in order."""
    tools: list[Any] | None = None


class Refusal(NamedTuple):
    """Why a chat was not rendered, or its answers not found."""

    message: str


@dataclass(frozen=True)
class Rendered:
    """A chat as text."""

    text: str
    spans: Spans
    """Where the answers stand, in order; some templates write one answer in several pieces."""
    stated: bool
    """The template said so itself: a span holds what is learnt, neither more nor less."""


def render(tokenizer: Any, chats: Sequence[Chat]) -> list[Rendered | Refusal]:
    """One entry for each chat.

    Raises:
        DataRefused: there is no template, or it is no valid Jinja; no row could be rendered.
    """
    if not chats:
        return []
    renderer = _Renderer(tokenizer, chats[0].place)
    found = _wholes(renderer, chats)
    if renderer.marked:
        made = [_stated(renderer, chat, item) for chat, item in zip(chats, found, strict=True)]
    else:
        made = _by_prefixes(renderer, chats, found)
    return [
        _refuse_if_left_out(chat, item) if chat.tools or _calls(chat) else item
        for chat, item in zip(chats, made, strict=True)
    ]


_Text = tuple[str, Spans]


def _wholes(renderer: _Renderer, chats: Sequence[Chat]) -> list[_Text | Refusal]:
    """Every chat as text, filled into forms where that gives the same."""
    made: list[_Text | Refusal | None] = [None] * len(chats)
    if renderer.verbatim:
        forms = Forms(renderer.form)
        made = [None if chat.tools else forms.fill(chat.messages) for chat in chats]
    left = [chat for chat, text in zip(chats, made, strict=True) if text is None]
    found = renderer.texts([(chat.messages, chat.tools) for chat in left], renderer.marked)
    rendered = iter(found)
    return [next(rendered) if text is None else text for text in made]


class _Renderer:
    """The tokenizer's template, ready to be used many times."""

    def __init__(self, tokenizer: Any, place: str) -> None:
        self._tokenizer, self._place = tokenizer, place
        self._tokens = tokenizer.special_tokens_map
        template = self._template(None)
        self.marked = bool(_MARKED.search(template))
        self.verbatim = self.marked and is_verbatim(template)

    def _template(self, tools: list[Any] | None) -> str:
        if not self._tokenizer.chat_template:
            raise DataRefused(
                f"{self._place}: the tokenizer has no chat template; "
                "hint: tokenizer.chat_template=chatml"
            )
        try:
            return str(self._tokenizer.get_chat_template(tools=tools))
        except ValueError as error:
            raise DataRefused(
                f"{self._place}: the tokenizer has several chat templates and none is the default; "
                "hint: tokenizer.chat_template=chatml"
            ) from error

    def form(self, messages: Messages) -> _Text | None:
        """One chat's text and marks, for `Forms`."""
        [found] = self.texts([(messages, None)], marked=True)
        return None if isinstance(found, Refusal) else found

    def without_close(self, part: _Text, whole: str) -> _Text:
        """A part of a chat without the end token that some templates write behind every chat."""
        text = part[0]
        closed = text.removesuffix(self._tokenizer.eos_token or "")
        return (closed, part[1]) if not whole.startswith(text) else part

    def texts(
        self,
        chats: Sequence[tuple[Messages, list[Any] | None]],
        marked: bool = False,
        answer_next: bool = False,
    ) -> list[_Text | Refusal]:
        """Each chat's text and, when `marked`, what the generation marks enclose."""
        if not any(tools for _, tools in chats):
            try:
                # all at once: the library's preparations are made once
                return self._call([messages for messages, _ in chats], None, marked, answer_next)
            except DataRefused:
                raise
            except Exception as error:  # templates raise whatever they like
                if len(chats) == 1:
                    return [Refusal(f"the chat template refuses the row: {error}")]
        found: list[_Text | Refusal] = []
        for messages, tools in chats:
            try:
                found += self._call([messages], tools or None, marked, answer_next)
            except DataRefused:
                raise
            except Exception as error:  # as above; here one row is told
                found.append(Refusal(f"the chat template refuses the row: {error}"))
        return found

    def _call(
        self, chats: list[Messages], tools: list[Any] | None, marked: bool, answer_next: bool
    ) -> list[_Text | Refusal]:
        template = self._template(tools)
        try:
            texts, spans = render_jinja_template(
                conversations=chats,
                tools=tools,
                chat_template=template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=answer_next,
                **self._tokens,
            )
        except TemplateSyntaxError as error:
            raise DataRefused(
                f"{self._place}: the chat template is no valid Jinja: line {error.lineno}: "
                f"{error.message}; see tokenizer.chat_template"
            ) from error
        return list(zip(texts, spans if marked else [[] for _ in texts], strict=True))


def _stated(renderer: _Renderer, chat: Chat, found: _Text | Refusal) -> Rendered | Refusal:
    """The answers' places as the template states them."""
    if isinstance(found, Refusal):
        return found
    text, spans = found
    turns = [n for n, turn in enumerate(chat.messages) if turn.get("role") == "assistant"]
    if len(spans) < len(turns):
        return Refusal(
            f"the chat template's generation marks enclose {len(spans)} of {len(turns)} assistant "
            "turns, so the others would not be learnt; hint: tokenizer.chat_template=chatml"
        )
    if turns != chat.answers:
        owners = turns if len(spans) == len(turns) else _owners(renderer, chat, len(spans))
        if owners is None:
            return Refusal(
                "the chat template marks pieces of assistant turns and they cannot be told apart; "
                "hint: collator.turns=all"
            )
        chosen = set(chat.answers)
        spans = [span for span, owner in zip(spans, owners, strict=True) if owner in chosen]
    return Rendered(text, spans, stated=True)


def _owners(renderer: _Renderer, chat: Chat, spans: int) -> list[int] | None:
    """The message that each marked piece belongs to, when there are more pieces than turns.

    Every answer is numbered by a private character and the chat rendered once more. A piece without
    a number, such as an end token marked by itself, belongs to the answer before it.
    """
    numbered = [
        turn | {"content": chr(0xE000 + number) + str(turn.get("content", ""))}
        if turn.get("role") == "assistant"
        else turn
        for number, turn in enumerate(chat.messages)
    ]
    [found] = renderer.texts([(numbered, chat.tools)], marked=True)
    if isinstance(found, Refusal) or len(found[1]) != spans:
        return None
    text, places = found
    owners: list[int] = []
    for begin, end in places:
        number = re.search("[\ue000-\uf8ff]", text[begin:end])
        if number is not None:
            owners.append(ord(number.group()) - 0xE000)
        elif owners:
            owners.append(owners[-1])
        else:
            return None
    return owners


def _by_prefixes(
    renderer: _Renderer, chats: Sequence[Chat], wholes: Sequence[_Text | Refusal]
) -> list[Rendered | Refusal]:
    """The answers' places by what is rendered before them and up to their end."""
    chosen = [
        (number, turn)
        for number, (chat, whole) in enumerate(zip(chats, wholes, strict=True))
        if not isinstance(whole, Refusal)
        for turn in chat.answers
    ]
    # rendering is most of the work; a chat up to its last message is the chat
    inner = [(number, turn) for number, turn in chosen if turn < len(chats[number].messages) - 1]
    prompts = renderer.texts([_up_to(chats[n], turn) for n, turn in chosen], answer_next=True)
    replies = dict(
        zip(inner, renderer.texts([_up_to(chats[n], turn + 1) for n, turn in inner]), strict=True)
    )
    made: list[Rendered | Refusal] = [
        whole if isinstance(whole, Refusal) else Rendered(whole[0], [], stated=False)
        for whole in wholes
    ]
    for (number, turn), prompt in zip(chosen, prompts, strict=True):
        here = made[number]
        if isinstance(here, Refusal):
            continue
        reply = replies.get((number, turn), wholes[number])
        if turn < len(chats[number].messages) - 1 and not isinstance(reply, Refusal):
            reply = renderer.without_close(reply, here.text)
        if isinstance(prompt, Refusal) or isinstance(reply, Refusal):
            made[number] = prompt if isinstance(prompt, Refusal) else Refusal(*reply)
        elif not reply[0].startswith(prompt[0]):
            made[number] = Refusal(
                f"the chat template begins the reply of message {turn} in another way than its own "
                "generation prompt does, so the answer's place cannot be told; "
                "hint: tokenizer.chat_template=chatml"
            )
        elif not here.text.startswith(reply[0]):
            made[number] = Refusal(
                f"the chat template writes message {turn} differently once other turns follow it, "
                "so what would be trained is never what is asked; hint: collator.turns=last"
            )
        else:
            here.spans.append((len(prompt[0]), len(reply[0])))
    return made


def _up_to(chat: Chat, turn: int) -> tuple[Messages, list[Any] | None]:
    return chat.messages[:turn], chat.tools


def _calls(chat: Chat) -> list[Any]:
    return [call for turn in chat.messages for call in turn.get("tool_calls") or ()]


def _refuse_if_left_out(chat: Chat, found: Rendered | Refusal) -> Rendered | Refusal:
    """A template that knows no tools leaves them out in silence; what is learnt would be wrong."""
    if isinstance(found, Refusal):
        return found
    for kind, items in (("tool", chat.tools or []), ("tool call", _calls(chat))):
        for item in items:
            own = item.get("function", item) if isinstance(item, dict) else {}
            name = own.get("name") if isinstance(own, dict) else None
            if not isinstance(name, str) or name not in found.text:
                shown = name if isinstance(name, str) else f"without a name: {item!r}"
                return Refusal(
                    f"the chat template leaves out the {kind} {shown}; "
                    "hint: tokenizer.chat_template=chatml"
                )
    return found
