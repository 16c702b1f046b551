"""A talk with a model: turns that grow, cut at the model's context by whole turns, and its log.

In: a model, its tokenizer, settings of the `generation` section, what a person says. Out: answers,
and the talk as a JSON line (a row that `data=jsonl` can train on) or Markdown. Nothing is printed
and nothing is asked here: `chat.py` does that.

A tokenizer without a chat template gets plain turns under `System:`, `User:` and `Model:`, and a
stop string where the next user's turn would begin.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from llmforge.stages.generate import (
    Answer,
    Prompt,
    answer_whole,
    context_of,
    messages_of,
    prompt_ids,
)

MARKS = {"system": "System:", "user": "User:", "assistant": "Model:"}
"""What begins a turn where no template says it."""

Message = dict[str, Any]


class TurnTooLong(ValueError):
    """What was said leaves no room for an answer, even with nothing before it."""


class Talk:
    """One talk; `messages` holds all of it, whatever the model still sees."""

    def __init__(self, model: Any, tokenizer: Any, generation: Mapping[str, Any], label: str):
        """
        Args:
            model: as `llmforge.load` gives it.
            tokenizer: the model's.
            generation: the whole section; its `system` opens the talk.
            label: what the model is called in the log.
        """
        self.model, self.tokenizer, self.label = model, tokenizer, label
        self.generation: dict[str, Any] = dict(generation)
        self.system: str | None = generation.get("system")
        self.messages: list[Message] = []
        self._unseen = 0
        """Messages at the beginning that the model does not see any more."""

    @property
    def plain(self) -> bool:
        """Is there no chat template?"""
        return not self.tokenizer.chat_template

    @property
    def turns(self) -> int:
        """Answers so far."""
        return sum(one["role"] == "assistant" for one in self.messages)

    def say(
        self,
        text: str,
        stream: Callable[[str], None] | None = None,
        told: Callable[[str], None] | None = None,
    ) -> Answer:
        """What the model answers; both turns then belong to the talk.

        Args:
            text: the user's turn.
            stream: called with each piece of the answer.
            told: called with a line when older turns are left out.

        Raises:
            TurnTooLong: the turn by itself fills the context; the talk is as it was.
            ValueError: the chat template refuses the talk, for its system prompt most often.
            KeyboardInterrupt: stopped; what was said so far is kept as the answer, and a turn
                without any is taken back.
        """
        self.messages.append({"role": "user", "content": text})
        pieces: list[str] = []

        def heard(piece: str) -> None:
            pieces.append(piece)
            if stream is not None:
                stream(piece)

        try:
            self._make_room(told)
            found = answer_whole(
                self.model, self.tokenizer, self._prompt(), self._settings(), heard
            )
        except KeyboardInterrupt:
            said = "".join(pieces).strip()
            if said:
                self.messages.append({"role": "assistant", "content": said, "stopped": True})
            else:
                self.messages.pop()
            raise
        except Exception:
            self.messages.pop()
            raise
        self.messages.append({"role": "assistant", "content": found.text})
        return found

    def undo(self) -> bool:
        """Take the last turn and its answer back; False when there is none."""
        if not self.messages:
            return False
        del self.messages[-2:]
        self._unseen = min(self._unseen, len(self.messages))
        return True

    def reset(self) -> None:
        """Begin anew; the system prompt stays."""
        self.messages, self._unseen = [], 0

    def change_system(self, text: str | None) -> None:
        """Another system prompt (None for none), from the next answer on."""
        self.system = text or None

    def _settings(self) -> dict[str, Any]:
        found = {**self.generation, "system": None}
        if self.plain:
            found["stop"] = [*found.get("stop", ()), f"\n{MARKS['user']}"]
        seed = found.get("seed")
        # the same noise for each answer would make them alike
        found["seed"] = None if seed is None else int(seed) + self.turns
        return found

    def _prompt(self, first: int | None = None) -> Prompt:
        seen = self.messages[self._unseen if first is None else first :]
        talk = [{"role": one["role"], "content": one["content"]} for one in seen]
        whole = messages_of(talk, self.system)
        if not self.plain:
            return whole
        turns = [f"{MARKS[one['role']]} {one['content']}" for one in whole]
        return "\n".join([*turns, MARKS["assistant"]])

    def _make_room(self, told: Callable[[str], None] | None) -> None:
        """Leave out the oldest turns, as few as it takes."""
        context = context_of(self.model)
        if context is None:
            return
        wanted = min(int(self.generation["max_new_tokens"]), context // 2)
        before = self._unseen
        last = len(self.messages) - 1
        for first in range(before, last + 1):
            if self.messages[first]["role"] != "user":
                continue  # a talk begins with what the user says
            size = len(prompt_ids(self.tokenizer, self._prompt(first)))
            if size + wanted <= context or (first == last and size < context):
                self._unseen = first
                break
        else:
            raise TurnTooLong(
                f"this turn has {size} tokens with what must stand before it, and the model sees "
                f"{context}"
            )
        if self._unseen > before and told is not None:
            gone = sum(one["role"] == "user" for one in self.messages[: self._unseen])
            told(f"the model sees {context} tokens: the first {gone} turn(s) are left out from now")

    # -- the log -------------------------------------------------------------------------------

    def row(self) -> dict[str, Any]:
        """The talk as one row: `messages` as chats are trained on, and how it was made."""
        talk = [{"role": one["role"], "content": one["content"]} for one in self.messages]
        settings = {key: value for key, value in self.generation.items() if key != "system"}
        return {
            "messages": messages_of(talk, self.system) if talk else [],
            "model": self.label,
            "generation": settings,
        }

    def text(self, markdown: bool) -> str:
        """The log as one piece of text: for people, or as one JSON line."""
        return self.markdown() if markdown else json.dumps(self.row(), ensure_ascii=False)

    def save(self, path: Path, before: Sequence[str] = ()) -> Path:
        """Write the log: Markdown for `.md`, else JSON lines, one for each talk.

        Args:
            path: replaced whole.
            before: `text` of talks that came before this one.

        Raises:
            OSError: it cannot be written.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        markdown = path.suffix == ".md"
        talks = [*before, *([self.text(markdown)] if self.messages else [])]
        staged = path.with_name(f".{path.name}.tmp")
        try:
            staged.write_text(("\n\n" if markdown else "\n").join(talks) + "\n", encoding="utf-8")
            staged.replace(path)
        finally:
            with suppress(FileNotFoundError):
                staged.unlink()
        return path

    def markdown(self) -> str:
        """The log for people."""
        names = {"system": "System", "user": "User", "assistant": "Model"}
        turns = (f"**{names[one['role']]}**\n\n{one['content']}" for one in self.row()["messages"])
        return "\n\n".join([f"# Talk with {self.label}", *turns])
