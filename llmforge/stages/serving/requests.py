"""What a client asks for: bodies of requests as settings of the section `generation`.

In: the JSON body of `/v1/chat/completions` or `/v1/completions`. Out: `Wanted`: token ids of the
prompt, the whole section `generation`, and how the answer is to come. What cannot be done is
refused with the field's name (`Refused`, a 4xx), and never left out in silence: a client that asks
for three answers must not take one for all.

Fields and their meaning are those of the OpenAI API reference, `top_k`, `min_p` and
`repetition_penalty` are those of vLLM's server. Nothing is generated here.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from llmforge.diagnostics import ConfigRefused, did_you_mean
from llmforge.stages.generate import context_of, messages_of, plain_ids, prompt_ids

Change = Callable[[Mapping[str, Any]], dict[str, Any]]
"""The served model's section `generation` with some keys changed; raises `ConfigRefused`."""

_TAKEN = {
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "min_p": "min_p",
    "repetition_penalty": "repetition_penalty",
    "seed": "seed",
    "stop": "stop",
}
"""Field of a request -> key of the section `generation`."""

_NOTES = frozenset(
    ("user", "metadata", "store", "service_tier", "stream_options", "safety_identifier",
     "prompt_cache_key")
)  # fmt: skip
"""Fields that ask nothing of the answer."""

_ONE_WAY: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "echo": (False,),
    "suffix": ("",),
    "logprobs": (False, 0),
    "top_logprobs": (0,),
    "presence_penalty": (0,),
    "frequency_penalty": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "response_format": ({"type": "text"},),
    "tools": ([],),
    "functions": ([],),
    "tool_choice": ("none", "auto"),
    "function_call": ("none", "auto"),
    "parallel_tool_calls": (True, False),
}
"""Fields of which only some values are what is done anyway."""


class Refused(ValueError):
    """A request that cannot be answered."""

    def __init__(self, message: str, field: str | None = None, status: int = 400) -> None:
        super().__init__(message)
        self.field, self.status = field, status


@dataclass(frozen=True)
class Wanted:
    """One answer that is asked for."""

    id: str
    ids: list[int]
    """Token ids of the prompt."""
    settings: dict[str, Any]
    """The whole section `generation`; `max_new_tokens` fits in the context."""
    stream: bool
    talk: list[dict[str, Any]] | None
    """Messages of a chat, contents as text; None for a text to continue."""

    @property
    def whole(self) -> bool:
        """Does white space at either end of the answer belong to it? A text goes on with it."""
        return self.talk is None


class Reader:
    """Reads the requests to one model."""

    def __init__(self, name: str, model: Any, tokenizer: Any, change: Change) -> None:
        """
        Args:
            name: under which the model is served.
            model: for its context.
            tokenizer: the model's.
            change: see `Change`.
        """
        self.name, self._tokenizer, self._change = name, tokenizer, change
        self._context = context_of(model)

    def chat(self, body: Mapping[str, Any]) -> Wanted:
        """What a body of `/v1/chat/completions` asks for.

        Raises:
            Refused: it asks for another model, for what is not done, or for nonsense.
        """
        settings = self._settings(body, {"messages"})
        talk = messages_of(_messages(body.get("messages")), settings.get("system"))
        try:
            ids = prompt_ids(self._tokenizer, talk)
        except ValueError as error:
            raise Refused(str(error), "messages") from error
        return self._wanted("chatcmpl", body, ids, settings, talk)

    def text(self, body: Mapping[str, Any]) -> Wanted:
        """What a body of `/v1/completions` asks for; raises as `chat`."""
        settings = self._settings(body, {"prompt"})
        prompt = body.get("prompt")
        if isinstance(prompt, list) and len(prompt) == 1:
            prompt = prompt[0]
        if not isinstance(prompt, str):
            raise Refused("`prompt` must be one text", "prompt")
        return self._wanted("cmpl", body, plain_ids(self._tokenizer, prompt), settings, None)

    def _wanted(
        self,
        kind: str,
        body: Mapping[str, Any],
        ids: list[int],
        settings: dict[str, Any],
        talk: list[dict[str, Any]] | None,
    ) -> Wanted:
        field = "prompt" if talk is None else "messages"
        if not ids:
            raise Refused("an empty prompt has nothing to continue", field)
        if self._context is not None:
            room = self._context - len(ids)
            if room <= 0:
                raise Refused(
                    f"the prompt has {len(ids)} tokens and the model sees {self._context}, which "
                    "leaves no room for an answer",
                    field,
                )
            settings["max_new_tokens"] = min(settings["max_new_tokens"], room)
        stream = body.get("stream") or False
        if not isinstance(stream, bool):
            raise Refused("`stream` must be true or false", "stream")
        return Wanted(f"{kind}-{uuid.uuid4().hex}", ids, settings, stream, talk)

    def _settings(self, body: Mapping[str, Any], own: set[str]) -> dict[str, Any]:
        model = body.get("model")
        if model is not None and model != self.name:
            raise Refused(f"there is no model `{model}` here, but `{self.name}`", "model", 404)
        given: dict[str, Any] = {}
        fields: list[str] = []
        for field, value in body.items():
            if field in own or field in ("model", "stream") or field in _NOTES or value is None:
                continue
            if field in _TAKEN:
                given[_TAKEN[field]] = value
                fields.append(field)
            elif field not in _ONE_WAY:
                near = did_you_mean(field, (*own, *_TAKEN, *_ONE_WAY))
                raise Refused("; ".join((f"there is no field `{field}`", *near)), field)
            elif not any(value == known for known in _ONE_WAY[field]):
                raise Refused(f"`{field}` is not served", field)
        return self._changed(given, fields)

    def _changed(self, given: dict[str, Any], fields: list[str]) -> dict[str, Any]:
        if isinstance(given.get("stop"), str):
            given["stop"] = [given["stop"]]
        if "temperature" in given:
            heat = given["temperature"]
            if isinstance(heat, bool) or not isinstance(heat, int | float):
                raise Refused("`temperature` must be a number", "temperature")
            given["sample"] = heat != 0
            if heat == 0:
                del given["temperature"]  # greedy: the section has no such temperature
        try:
            return self._change(given)
        except ConfigRefused as error:
            found = error.diagnostics[0]
            key = (found.key or "").rpartition(".")[2]
            field = next((one for one in fields if _TAKEN[one] == key), None)
            raise Refused(found.message, field) from error


def _messages(found: Any) -> list[dict[str, Any]]:
    """Messages with their contents as text."""
    if not isinstance(found, list) or not found:
        raise Refused("`messages` must be a list with at least one message", "messages")
    read = []
    for number, message in enumerate(found):
        where = f"messages[{number}]"
        if not isinstance(message, dict) or not isinstance(message.get("role"), str):
            raise Refused(f"`{where}` must have a `role` and a `content`", "messages")
        if message.get("tool_calls"):
            raise Refused("`tool_calls` are not served", "messages")
        # the API's newer word for what chat templates know as the system prompt
        role = "system" if message["role"] == "developer" else message["role"]
        read.append({"role": role, "content": _content(message.get("content"), where)})
    return read


def _content(found: Any, where: str) -> str:
    if isinstance(found, str):
        return found
    parts = found if isinstance(found, list) else [None]
    texts = []
    for part in parts:
        if not isinstance(part, dict) or not isinstance(part.get("text"), str):
            raise Refused(f"`{where}.content` must be text: this model reads nothing else",
                          "messages")  # fmt: skip
        texts.append(part["text"])
    return "\n".join(texts)
