"""Preference pairs: two answers to one prompt, as text or as chats, in any form that rows have.

In: a raw row's columns and the source's settings. Out: `prompt`, `chosen`, `rejected` (and
`tools`), either three texts, or a list of messages and two messages; or a `Fault`. The forms:

* `prompt`, `chosen` and `rejected` as text, or `prompt` as text or messages with answers that are
  messages, lists of them, or text;
* no `prompt`: both answers begin with it. Of texts it is what they share, up to a border of words;
  of chats all messages but the last.

Which tokens carry loss is decided in `build/pairs.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from llmforge.schema.data import Source
from llmforge.sources.base import Fault, excerpt
from llmforge.sources.select import has, lookup
from llmforge.sources.shapes import MEND, as_text, from_json, messages_of, named, no_column

Values = dict[str, Any]
Found = tuple[Values | None, Fault | None]


def pair_of(row: Mapping[str, Any], source: Source) -> Found:
    """The row's pair, or what is wrong with it (LF505, LF530-LF532)."""
    fields = source.fields
    answers = []
    for name in ("chosen", "rejected"):
        column = getattr(fields, name)
        if not has(row, column):
            return None, no_column(name, column, row, fields)
        value = _part(lookup(row, column))
        if not isinstance(value, str | list) or value == []:
            what = f"is {named(value)}, not text or messages"
            return None, _fault("LF505", row, name, source, what)
        if isinstance(value, str) and not value.strip():
            return None, _fault("LF505", row, name, source, "is empty, so nothing to learn")
        answers.append(value)
    chosen, rejected = answers
    prompt = _part(lookup(row, fields.prompt))
    if prompt is not None and not isinstance(prompt, str | list):
        return None, _fault("LF505", row, "prompt", source, f"is {named(prompt)}, not text")
    if chosen == rejected:
        what = f"is the same as `{fields.chosen}`, so that neither is preferred"
        return None, _fault("LF530", row, "rejected", source, what)
    if isinstance(prompt, list):
        return _chats(row, source, prompt, _as_messages(chosen), _as_messages(rejected))
    if isinstance(chosen, str) and isinstance(rejected, str):
        return _texts(row, source, prompt, chosen, rejected)
    if isinstance(chosen, str) or isinstance(rejected, str):
        what = f"is {named(rejected)}, while `{fields.chosen}` is {named(chosen)}"
        return None, _fault("LF505", row, "rejected", source, what)
    return _chats(row, source, prompt, chosen, rejected)


def _part(value: Any) -> Any:
    """One message as a list of it, and messages held as JSON text as the list; an answer that is
    a JSON list of something else stays text."""
    if isinstance(value, Mapping):
        return [value]
    found = from_json(value)
    is_chat = isinstance(found, list) and all(isinstance(each, Mapping) for each in found)
    return found if is_chat else value


def _as_messages(answer: str | list[Any]) -> list[Any]:
    return [{"role": "assistant", "content": answer}] if isinstance(answer, str) else answer


def _texts(
    row: Mapping[str, Any], source: Source, prompt: str | None, chosen: str, rejected: str
) -> Found:
    if prompt is None:
        shared = _shared(chosen, rejected)
        # a prompt ends where a word does, and the space behind it begins the answers
        border = max((n for n, letter in enumerate(shared) if letter.isspace()), default=0)
        if shared in (chosen, rejected) or not shared[:border].strip():
            what = f"and `{source.fields.chosen}` do not begin with the same prompt"
            if shared in (chosen, rejected):
                what = f"and `{source.fields.chosen}` are one the beginning of the other"
            return None, _fault("LF531", row, "rejected", source, what, _PROMPT)
        prompt, chosen, rejected = shared[:border], chosen[border:], rejected[border:]
    return {"prompt": prompt, "chosen": chosen, "rejected": rejected}, None


def _shared(one: str, other: str) -> str:
    """What two texts begin with."""
    alike = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return one[: sum(1 for _ in alike)]


_PROMPT = "fields.prompt=<column of the prompt>"


def _chats(
    row: Mapping[str, Any],
    source: Source,
    prompt: str | list[Any] | None,
    chosen: list[Any],
    rejected: list[Any],
) -> Found:
    before = prompt if isinstance(prompt, list) else []
    if isinstance(prompt, str) and all(_begins_by_answer(a, source) for a in (chosen, rejected)):
        fields = source.fields
        asker = next((name for name, role in source.roles.items() if role == "user"), "user")
        before = [{fields.role: asker, fields.content: prompt}]
    else:
        before = [_renamed(message, source.fields) for message in before]
    chats: list[list[dict[str, Any]]] = []
    for name, answer in (("chosen", chosen), ("rejected", rejected)):
        whole = [*before, *(_renamed(message, source.fields) for message in answer)]
        made, problem = messages_of(whole, source)
        if problem is not None or made is None:
            what, hint, key = problem or ("", None, None)
            return None, _fault("LF505", row, name, source, what, hint, key)
        if made[-1]["role"] != "assistant":
            what = f"ends with the {made[-1]['role']}'s message, not with an answer"
            return None, _fault("LF532", row, name, source, what)
        chats.append(made)
    if chats[0][:-1] != chats[1][:-1]:
        what = f"and `{source.fields.chosen}` differ before their last message"
        notes = "a pair is two last answers to one prompt"
        return None, _fault("LF531", row, "rejected", source, what, notes=(notes,))
    if len(chats[0]) == 1:
        what = f"and `{source.fields.chosen}` are answers without a prompt"
        return None, _fault("LF531", row, "rejected", source, what, _PROMPT)
    found: Values = {"prompt": chats[0][:-1], "chosen": chats[0][-1], "rejected": chats[1][-1]}
    tools = from_json(lookup(row, source.fields.tools))
    if tools:
        if not isinstance(tools, list):
            what = f"is {named(tools)}, not a list"
            return None, _fault("LF505", row, "tools", source, what)
        found["tools"] = tools
    return found, None


def _renamed(message: Any, fields: Any) -> Any:
    """Answers that were written as text have the plain names; data may have others."""
    if not isinstance(message, Mapping) or fields.role in message or "role" not in message:
        return message
    plain = {fields.role: message["role"], fields.content: message.get("content")}
    rest = {key: value for key, value in message.items() if key not in ("role", "content")}
    return {**plain, **rest}


def _begins_by_answer(chat: list[Any], source: Source) -> bool:
    first = chat[0]
    said = first.get(source.fields.role) if isinstance(first, Mapping) else None
    return isinstance(said, str) and source.roles.get(said, said) == "assistant"


def _fault(
    code: str,
    row: Mapping[str, Any],
    name: str,
    source: Source,
    what: str,
    hint: str | None = None,
    key: str | None = None,
    notes: tuple[str, ...] = (),
) -> Fault:
    column = getattr(source.fields, name)
    return Fault(
        code,
        f"`{column}` {what}",
        sample=excerpt(as_text(lookup(row, column))) or excerpt(as_text(dict(row))),
        hint=hint or MEND,
        key=key or f"fields.{name}",
        notes=notes,
    )
