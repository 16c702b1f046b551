"""Rows of every shape laid out as text, with the characters that carry loss.

In: rows of one shape, a tokenizer (for its chat template), the settings of the collator. Out: one
`Laid` or `Rejected` per row, in order. `render.py` renders chats; which tokens stand for the
characters is decided in `tokenize.py`, which also says what is trained and why.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from llmforge.build.errors import DataRefused
from llmforge.build.render import Chat, Messages, Refusal, Spans, render
from llmforge.build.sample import Rejected
from llmforge.sources.base import Row


@dataclass(frozen=True)
class Laid:
    """A row laid out as text."""

    text: str
    spans: Spans
    """Characters that carry loss: first and one past the last of each run."""
    prompt: str = ""
    chat: bool = False
    """A template wrote the text, with beginnings and ends of its own."""
    turns: bool = False
    """The spans are turns of a chat, whose ends are told apart."""
    stated: bool = False
    """The template's generation marks gave the spans."""
    answered: bool = False
    """The last message of the chat is trained, so that it must not be left open."""


def lay_out_lm(rows: Sequence[Row], tokenizer: Any, spec: Any) -> list[Laid | Rejected]:
    """All of the text, of rows of any shape."""
    if rows and "messages" in rows[0].values:
        # a template writes its own beginning and ends
        chats = [Chat(row.place, _messages(row), [], row.values.get("tools")) for row in rows]
        return [
            Rejected("template", found.message)
            if isinstance(found, Refusal)
            else Laid(found.text, [(0, len(found.text))], chat=True)
            for found in render(tokenizer, chats)
        ]
    made: list[Laid | Rejected] = []
    for row in rows:
        if "text" in row.values:
            text = row.values["text"]
        elif "text_parts" in row.values:
            text = spec.separator.join(row.values["text_parts"])
        else:
            text = _join(*_pair(row))[0]
        made.append(Laid(text, [(0, len(text))]) if text.strip() else Rejected("empty"))
    return made


def lay_out_completion(rows: Sequence[Row], tokenizer: Any, spec: Any) -> list[Laid | Rejected]:  # noqa: ARG001 - one signature for all
    """The completion, the output, or the last text part."""
    made: list[Laid | Rejected] = []
    for row in rows:
        if "text_parts" in row.values:
            parts = row.values["text_parts"]
            completion = parts[-1] if parts else ""
            text = spec.separator.join(parts)
            border = len(text) - len(completion)
        else:
            prompt, completion = _pair(row)
            text, border = _join(prompt, completion)
        if not completion.strip():
            made.append(Rejected("empty"))
            continue
        if spec.prefix_end:
            marker = completion.find(spec.prefix_end)
            if marker >= 0:
                border = len(text) - len(completion) + marker + len(spec.prefix_end)
        made.append(Laid(text, [(border, len(text))], text[:border].strip()))
    return made


def lay_out_chat(rows: Sequence[Row], tokenizer: Any, spec: Any) -> list[Laid | Rejected]:
    """The chosen assistant turns."""
    chats = []
    for row in rows:
        messages = _messages(row)
        answers = _answers(messages, spec.turns)
        chats.append(Chat(row.place, messages, answers, row.values.get("tools")))
    made: list[Laid | Rejected | None] = []
    for chat in chats:
        if not chat.answers:
            made.append(Rejected("no_trained_token"))
        elif not any(_says_something(chat.messages[turn]) for turn in chat.answers):
            made.append(Rejected("empty"))
        else:
            made.append(None)
    rendered = iter(render(tokenizer, [c for c, item in zip(chats, made, strict=True) if not item]))
    return [
        item or _laid_chat(chat, next(rendered)) for chat, item in zip(chats, made, strict=True)
    ]


def _laid_chat(chat: Chat, found: Any) -> Laid | Rejected:
    if isinstance(found, Refusal):
        return Rejected("template", found.message)
    return Laid(
        found.text,
        found.spans,
        _question(chat.messages[: chat.answers[-1]]),
        chat=True,
        turns=True,
        stated=found.stated,
        answered=chat.answers[-1] == len(chat.messages) - 1,
    )


def _join(prompt: str, completion: str) -> tuple[str, int]:
    """Prompt and completion as one text, and the character where the completion begins."""
    border = len(prompt.rstrip())
    apart = not prompt or prompt[-1:].isspace() or completion[:1].isspace()
    return (f"{prompt}{completion}" if apart else f"{prompt}\n{completion}"), border


def _pair(row: Row) -> tuple[str, str]:
    """What is given and what is learnt of a row that holds just these."""
    values = row.values
    if "prompt" in values and "completion" in values:
        return values["prompt"], values["completion"]
    if "instruction" in values and "output" in values:
        return _asked(values), values["output"]
    raise DataRefused(
        f"{row.place}: this collator needs prompt and completion, or instruction and output; the "
        f"row holds {' and '.join(values)}; hint: collator=auto"
    )


def _asked(values: Mapping[str, Any]) -> str:
    given = values.get("input") or ""
    return f"{values['instruction']}\n\n{given}" if given else str(values["instruction"])


def _messages(row: Row) -> Messages:
    values = row.values
    if "messages" in values:
        # tables give null where a message has no such key, and templates ask for the key
        return [
            {key: value for key, value in message.items() if value is not None}
            for message in values["messages"]
        ]
    asked, answer = _pair(row)
    question = {"role": "user", "content": asked}
    if "instruction" in values:
        # for templates that write the two apart, as Alpaca's does
        question |= {"instruction": values["instruction"], "input": values.get("input") or ""}
    return [question, {"role": "assistant", "content": answer}]


def _answers(chat: Messages, turns: str) -> list[int]:
    found = [number for number, turn in enumerate(chat) if turn.get("role") == "assistant"]
    if turns == "flagged":
        # true in JSON, 1 in tables
        return [number for number in found if chat[number].get("train") == 1]
    return found[-1:] if turns == "last" else found


def _says_something(turn: Mapping[str, Any]) -> bool:
    content = turn.get("content", "")
    return bool(turn.get("tool_calls")) or not isinstance(content, str) or bool(content.strip())


def _question(before: Messages) -> str:
    """What leads to the last answer: the question alone, or the whole talk when there is more."""
    if len(before) == 1:
        return str(before[0].get("content", ""))
    return "\n".join(f"{turn.get('role')}: {turn.get('content', '')}" for turn in before)
