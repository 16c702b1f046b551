"""What a row holds: the shape of its columns, and whether it has what its shape needs.

In: a raw row's columns and the source's settings. Out: the row's values under llmforge's own names,
or a `Fault` that names the column and the override that mends it. Chats are checked turn by turn.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from llmforge.diagnostics import near
from llmforge.schema.data import Fields, Source
from llmforge.sources.base import Fault, excerpt
from llmforge.sources.select import has, lookup

COLUMNS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "instruction": ("instruction", "output"),
    "text_parts": ("text_parts",),
    "text": ("text",),
    "preference": ("chosen", "rejected"),
}
"""Which `data.fields` each shape needs, in the order shapes are tried."""

ROLES = ("system", "user", "assistant", "tool")

MEND = "mend or remove that row, or let it go with data.max_bad_rows=1"
_MAY_BE_EMPTY = ("prompt", "input")

# names that published data sets give to what `data.fields` calls these
_SYNONYMS: dict[str, tuple[str, ...]] = {
    "prompt": ("question", "instruction", "input", "query", "source", "q"),
    "completion": ("answer", "output", "response", "target", "label", "chosen", "a"),
    "messages": ("conversations", "conversation", "chat", "dialogue", "turns"),
    "text": ("content", "document", "body", "passage"),
    "instruction": (),
    "output": ("response", "answer"),
    "text_parts": ("parts",),
    "chosen": ("preferred", "accepted", "winner"),
    "rejected": ("dispreferred", "loser"),
}
_ROLE_WORDS = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}


def detect(row: Mapping[str, Any], fields: Fields) -> str | None:
    """The first shape whose columns the row has; None if it has none of them."""
    for shape, needed in COLUMNS.items():
        if all(has(row, getattr(fields, name)) for name in needed):
            return shape
    return None


def no_shape(row: Mapping[str, Any], fields: Fields) -> Fault:
    """LF506: none of the known shapes fits; the hint maps the columns that are there."""
    wanted = " or ".join(
        "+".join(f"`{getattr(fields, name)}`" for name in needed) for needed in COLUMNS.values()
    )
    hint = None
    numbered = [name for name in row if name.isdigit()]
    if 0 < len(numbered) == len(row) <= 2:  # a file without a header
        names = ("text",) if len(row) == 1 else ("prompt", "completion")
        # unquoted, the number would be one
        hint = " ".join(
            f"'fields.{name}=\"{column}\"'" for name, column in zip(names, row, strict=True)
        )
    for needed in COLUMNS.values():
        guesses = [_column_for(name, fields, row) for name in needed]
        if all(guesses) and len(set(guesses)) == len(guesses):
            hint = " ".join(
                f"fields.{name}={guess}"
                for name, guess in zip(needed, guesses, strict=True)
                if guess != getattr(fields, name)
            )
            break
    return Fault(
        "LF506",
        "has no columns that llmforge can train on",
        hint=hint,
        key="fields",
        notes=(_columns_there(row), f"needed: {wanted}"),
        ends=True,
    )


def values_of(
    row: Mapping[str, Any], shape: str, source: Source
) -> tuple[dict[str, Any] | None, Fault | None]:
    """The row's values under the shape's own names, or what is wrong with them (LF505).

    Of shape `preference` see `pairs.py`.
    """
    fields = source.fields
    found: dict[str, Any] = {}
    for name in COLUMNS[shape]:
        column = getattr(fields, name)
        value = lookup(row, column)
        if value is None and not has(row, column):
            return None, no_column(name, column, row, fields)
        if name == "messages":
            value, problem = messages_of(from_json(value), source)
        elif name == "text_parts":
            value, problem = _text_parts(from_json(value))
        else:
            problem = _text_problem(value, may_be_empty=name in _MAY_BE_EMPTY)
        if problem is not None:
            what, hint, key = problem
            return None, Fault(
                "LF505",
                f"`{column}` {what}",
                # of an empty value nothing could be shown
                sample=excerpt(as_text(lookup(row, column))) or excerpt(as_text(dict(row))),
                hint=hint or MEND,
                key=key or f"fields.{name}",
            )
        found[name] = value
    if shape == "instruction":
        extra = lookup(row, fields.input)
        if extra is not None and not isinstance(extra, str):
            return None, _odd("input", fields.input, extra)
        found["input"] = extra or ""
    elif shape == "messages" and (tools := from_json(lookup(row, fields.tools))):
        if not isinstance(tools, list):
            return None, _odd("tools", fields.tools, tools)
        found["tools"] = tools
    return found, None


Problem = tuple[str, str | None, str | None]
"""What is wrong, a hint, and the setting to blame, relative to the source."""


def _text_problem(value: Any, may_be_empty: bool = False) -> Problem | None:
    if not isinstance(value, str):
        return f"is {named(value)}, not text", None, None
    if not may_be_empty and not value.strip():
        return "is empty, so nothing to learn", None, None
    return None


def _text_parts(value: Any) -> tuple[list[str] | None, Problem | None]:
    if not isinstance(value, list) or not value:
        return None, (f"is {named(value)}, not a list of texts", None, None)
    for number, part in enumerate(value):
        if not isinstance(part, str):
            return None, (f"part {number} is {named(part)}, not text", None, None)
    if not value[-1].strip():
        return None, ("ends with an empty part, so nothing to learn", None, None)
    return value, None


def messages_of(value: Any, source: Source) -> tuple[list[dict[str, Any]] | None, Problem | None]:
    """A chat under the plain names `role` and `content`, or what is wrong with it."""
    if not isinstance(value, list) or not value:
        return None, (f"is {named(value)}, not a list of messages", None, None)
    found = []
    for number, message in enumerate(value):
        made, problem = _message(message, number, source)
        if made is None:
            return None, problem
        found.append(made)
    if not any(message["role"] == "assistant" for message in found):
        return None, ("has no assistant turn, so nothing to learn", None, None)
    order = _order_problem(found) if source.strict_turns else None
    return (None, order) if order else (found, None)


def _message(
    message: Any, number: int, source: Source
) -> tuple[dict[str, Any] | None, Problem | None]:
    fields = source.fields
    if not isinstance(message, Mapping):
        return None, (f"message {number} is {named(message)}, not a message", None, None)
    for name in ("role", "content"):
        column = getattr(fields, name)
        if column not in message and not (name == "content" and message.get("tool_calls")):
            there = ", ".join(f"`{key}`" for key in message)
            return None, (
                f"message {number} has no `{column}`; it holds {there or 'nothing'}",
                _message_keys(message),
                f"fields.{name}",
            )
    said = message[fields.role]
    role = source.roles.get(said, said) if isinstance(said, str) else said
    if role not in ROLES:
        guess = _ROLE_WORDS.get(str(said).lower())
        return None, (
            f"message {number} has role {json.dumps(said, ensure_ascii=False, default=str)}; "
            f"known are {', '.join(ROLES)}",
            f"'++data.roles={{{said}: {guess}}}'" if guess else None,
            "roles",
        )
    content = message.get(fields.content)
    calls = message.get("tool_calls") if role == "assistant" else None
    if content is None and calls:
        content = ""
    if not isinstance(content, str):
        return None, (f"message {number} has {named(content)} as content, not text", None, None)
    if role == "assistant" and not content.strip() and not calls:
        return None, (f"message {number} is an empty assistant turn", None, None)
    kept = {
        key: item
        for key, item in message.items()
        if key not in (fields.role, fields.content, fields.flag) and item is not None
    }
    made = {"role": role, "content": content, **kept}
    if fields.flag in message:
        made["train"] = message[fields.flag] in (True, 1, "true", "True", "1")
    return made, None


def _order_problem(messages: list[dict[str, Any]]) -> Problem | None:
    """Turns in an order that no template was made for."""
    said = [message["role"] for message in messages]
    if "system" in said[1:]:
        number = said.index("system", 1)
        return (f"message {number} is a system message that is not the first", _FREE, _STRICT)
    begin = 1 if said[0] == "system" else 0
    if said[begin : begin + 1] == ["assistant"]:
        return "begins with the assistant, before anybody asked", _FREE, _STRICT
    for number in range(begin + 1, len(said)):
        if said[number] == said[number - 1] and said[number] in ("user", "assistant"):
            what = f"messages {number - 1} and {number} are both the {said[number]}'s"
            return what, _FREE, _STRICT
    return None


_FREE, _STRICT = "strict_turns=false", "strict_turns"


def _message_keys(message: Mapping[str, Any]) -> str | None:
    """The ShareGPT names, where a message has them."""
    if "from" in message and "value" in message:
        roles = ", ".join(f"{word}: {role}" for word, role in list(_ROLE_WORDS.items())[:2])
        return f"fields.role=from fields.content=value '++data.roles={{{roles}}}'"
    return None


def no_column(name: str, column: str, row: Mapping[str, Any], fields: Fields) -> Fault:
    """LF505: the row lacks what its shape needs."""
    guess = _column_for(name, fields, row)
    return Fault(
        "LF505",
        f"has no `{column}`",
        sample=excerpt(as_text(row)),
        hint=f"fields.{name}={guess}" if guess else MEND,
        key=f"fields.{name}",
        notes=(_columns_there(row),),
    )


def _odd(name: str, column: str, value: Any) -> Fault:
    wanted = "a list" if name == "tools" else "text"
    return Fault(
        "LF505",
        f"`{column}` is {named(value)}, not {wanted}",
        sample=excerpt(as_text(value)),
        hint=MEND,
        key=f"fields.{name}",
    )


def _columns_there(row: Mapping[str, Any]) -> str:
    return f"columns there: {', '.join(f'`{name}`' for name in list(row)[:12]) or 'none'}"


def _column_for(name: str, fields: Fields, row: Mapping[str, Any]) -> str | None:
    if has(row, getattr(fields, name)):
        return str(getattr(fields, name))
    for synonym in _SYNONYMS[name]:
        if synonym in row:
            return synonym
    guess = near(getattr(fields, name), row, 1)
    return guess[0] if guess else None


def from_json(value: Any) -> Any:
    """Lists that a CSV file or a database column holds as JSON text."""
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        try:
            return json.loads(value)
        except (ValueError, RecursionError):
            return value  # told as text where a list was expected
    return value


def as_text(value: Any) -> str:
    """A value as people would read it."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def named(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "null"
    if isinstance(value, list) and not value:
        return "an empty list"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    return names.get(type(value), "a mapping" if isinstance(value, dict) else "a list")
