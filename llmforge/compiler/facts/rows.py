"""What one row of data may look like: shape detection and row checks.

In: a parsed row and the names of its columns. Out: its shape, or a diagnostic that names the
column, the line and the override that mends it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from llmforge.diagnostics import Diagnostic, near
from llmforge.schema.data import Fields

_COLUMNS = {
    "messages": ("messages",),
    "prompt_completion": ("prompt", "completion"),
    "text": ("text",),
}
"""Which `data.fields` each shape needs, in the order shapes are tried."""

ROLES = ("system", "user", "assistant", "tool")

# names that published data sets give to what `data.fields` calls these
_SYNONYMS = {
    "prompt": ("question", "instruction", "input", "query", "source"),
    "completion": ("answer", "output", "response", "target", "label"),
    "messages": ("conversations", "conversation", "chat", "dialogue", "turns"),
    "text": ("content", "document", "body", "passage"),
}


def detect_shape(row: Mapping[str, Any], fields: Fields) -> str | None:
    """The first shape whose columns the row has; None if it has none of them."""
    for shape, needed in _COLUMNS.items():
        if all(getattr(fields, name) in row for name in needed):
            return shape
    return None


def explain_no_shape(row: Mapping[str, Any], fields: Fields, place: str) -> Diagnostic:
    """LF506: none of the known shapes fits; the hint maps the columns that are there."""
    wanted = " or ".join(
        "+".join(f"`{getattr(fields, name)}`" for name in needed) for needed in _COLUMNS.values()
    )
    hint = None
    for needed in _COLUMNS.values():
        guesses = [_column_for(name, fields, row) for name in needed]
        if all(guesses):
            hint = " ".join(
                f"data.fields.{name}={guess}"
                for name, guess in zip(needed, guesses, strict=True)
                if guess != getattr(fields, name)
            )
            break
    return Diagnostic(
        "LF506",
        f"{place} has no columns that llmforge can train on",
        key="data.fields",
        notes=(
            f"columns there: {', '.join(f'`{name}`' for name in list(row)[:12]) or 'none'}",
            f"needed: {wanted}",
        ),
        hint=hint,
    )


def row_fault(row: Mapping[str, Any], shape: str, fields: Fields, place: str) -> Diagnostic | None:
    """LF505 when the row does not hold what its shape needs."""
    for name in _COLUMNS[shape]:
        column = getattr(fields, name)
        if column not in row:
            guess = _column_for(name, fields, row)
            return Diagnostic(
                "LF505",
                f"{place} has no `{column}`",
                key=f"data.fields.{name}",
                notes=(f"columns there: {', '.join(f'`{c}`' for c in list(row)[:12]) or 'none'}",),
                hint=f"data.fields.{name}={guess}" if guess else None,
            )
        fault = _messages_fault(row[column]) if name == "messages" else _text_fault(row[column])
        if fault:
            return Diagnostic(
                "LF505",
                f"{place}: `{column}` {fault}",
                key=f"data.fields.{name}",
                hint="mend or remove that line",
            )
    return None


def _column_for(name: str, fields: Fields, row: Mapping[str, Any]) -> str | None:
    if getattr(fields, name) in row:
        return str(getattr(fields, name))
    for synonym in _SYNONYMS[name]:
        if synonym in row:
            return synonym
    guess = near(getattr(fields, name), row, 1)
    return guess[0] if guess else None


def _text_fault(value: Any) -> str | None:
    if not isinstance(value, str):
        return f"is {_named(value)}, not text"
    return None


def _messages_fault(value: Any) -> str | None:
    if not isinstance(value, list) or not value:
        return f"is {_named(value)}, not a list of messages"
    for index, message in enumerate(value):
        if not isinstance(message, dict) or not isinstance(message.get("content"), str):
            return f"message {index} is not {{role, content}} with text as content"
        if message.get("role") not in ROLES:
            return f"message {index} has role {message.get('role')!r}; known are {', '.join(ROLES)}"
    if not any(message["role"] == "assistant" for message in value):
        return "has no assistant turn, so nothing to learn"
    return None


def _named(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, list) and not value:
        return "an empty list"
    names = {bool: "true or false", int: "a number", float: "a number", str: "text"}
    return names.get(type(value), "a mapping" if isinstance(value, dict) else "a list")
