"""Chats filled into forms: what a template writes around contents is rendered once.

In: chats, and the rendering of a template that writes contents as they are. Out: their texts and
spans, equal to those of the template. Rendering takes longer than tokenising leaves time for, and
chats of the same turns differ in their contents only.

This holds for templates that neither change nor ask for contents, which is known of some that come
with llmforge (`templates.VERBATIM`) and cannot be told of others, so these are always rendered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from itertools import accumulate
from typing import Any, NamedTuple

Messages = list[dict[str, Any]]
Text = tuple[str, list[tuple[int, int]]]
"""A chat's text, and first and one-past-last character of what the assistant wrote."""

_FIRST = 0xE000
_PLACE = re.compile("[\ue000-\uf8ff]")
_FREE = frozenset({"role", "content", "train", "instruction", "input"})
"""Keys of messages that these templates do not read, beside role and content."""


class _Form(NamedTuple):
    around: list[str]
    """What stands before, between and behind the contents."""
    order: list[int]
    """Messages in the order in which their contents are written."""
    spans: list[tuple[tuple[int, int], tuple[int, int]]]
    """Begin and end, each as characters of the form and contents before it."""


class Forms:
    """The forms of one template, by the roles of the turns."""

    def __init__(self, render: Callable[[Messages], Text | None]) -> None:
        """`render` gives None for what the template refuses."""
        self._render = render
        self._forms: dict[tuple[Any, ...], _Form | None] = {}

    def fill(self, messages: Messages) -> Text | None:
        """The chat's text and spans, or None when the template itself has to be asked."""
        if not all(_plain(message) for message in messages):
            return None
        roles = tuple(message["role"] for message in messages)
        if roles not in self._forms:
            self._forms[roles] = self._form(messages)
        form = self._forms[roles]
        if form is None:
            return None
        contents = [messages[number]["content"] for number in form.order]
        pieces = [form.around[0]]
        for content, behind in zip(contents, form.around[1:], strict=True):
            pieces += (content, behind)
        written = [0, *accumulate(map(len, contents))]
        return "".join(pieces), [
            (begin + written[before], end + written[until])
            for (begin, before), (end, until) in form.spans
        ]

    def _form(self, messages: Messages) -> _Form | None:
        """One private character stands for each content."""
        if len(messages) > 0xF8FF - _FIRST:
            return None
        found = self._render(
            [
                {"role": message["role"], "content": chr(_FIRST + number)}
                for number, message in enumerate(messages)
            ]
        )
        if found is None:
            return None
        text, spans = found

        def place(at: int) -> tuple[int, int]:
            before = len(_PLACE.findall(text[:at]))
            return at - before, before

        return _Form(
            _PLACE.split(text),
            [ord(mark) - _FIRST for mark in _PLACE.findall(text)],
            [(place(begin), place(end)) for begin, end in spans],
        )


def _plain(message: Mapping[str, Any]) -> bool:
    return (
        message.keys() <= _FREE
        and type(message.get("content")) is str
        and type(message.get("role")) is str
        and not _PLACE.search(message["role"])
    )
