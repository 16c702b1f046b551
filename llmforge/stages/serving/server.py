"""The endpoint: the library's server around one model that is loaded already.

In: model, tokenizer, settings, a bound socket. Out: answers at `/v1/models`, `/v1/completions` and
`/v1/chat/completions`, until the process is told to end. Routes, streams and the shapes of answers
are transformers' own; its manager of models is given the one model (it would load others from the
hub for whoever asks), and what a request means is read by `requests.py`.

The library's other routes (loading and unloading models, audio, ...) are taken off.
"""

from __future__ import annotations

import inspect
import json
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import starlette.exceptions
import uvicorn
from fastapi import HTTPException, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from starlette.middleware.trustedhost import TrustedHostMiddleware
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.server import build_server

from llmforge.stages.serving.answering import Answers, Cancelled, OneManager
from llmforge.stages.serving.requests import Reader, Refused, Wanted

ROUTES = frozenset(("/v1/models", "/v1/completions", "/v1/chat/completions", "/health"))
"""What is served."""

_PATIENCE = 5
"""Seconds that connections and the answer under way get to end."""


class OneModel(ModelManager):  # type: ignore[misc]
    """The library's manager of models, holding one that it neither loads nor lets go."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        super().__init__(device=str(model.device), model_timeout=-1)
        self.force_model = name
        self._pair = model, tokenizer
        self._since = int(time.time())

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """The name as it is: no revision belongs to it."""
        return model_id

    def load_model_and_processor(self, *asked: Any, **more: Any) -> tuple[Any, Any]:
        """The one that is there."""
        del asked, more
        return self._pair

    def get_gen_models(self, cache_dir: str | None = None) -> list[dict[str, Any]]:
        """The entry of `/v1/models`."""
        del cache_dir
        return [
            {"id": self.force_model, "object": "model", "created": self._since,
             "owned_by": "llmforge"}
        ]  # fmt: skip

    def shutdown(self) -> None:
        """The process ends with the server, and the model with it."""


class _Chats(ChatCompletionHandler):  # type: ignore[misc]
    def __init__(self, manager: OneModel, state: OneManager, reader: Reader, answers: Answers):
        super().__init__(manager, state)
        self._reader, self._answers = reader, answers

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Any:
        del request_id  # a client may send the same one twice
        wanted = _read(self._reader.chat, body)
        passed = _passed(self._reader.name, wanted) | {"messages": wanted.talk}
        self._answers.expect(wanted)
        try:
            return _closed(await super().handle_request(passed, wanted.id))
        finally:
            self._answers.forget(wanted)


class _Texts(CompletionHandler):  # type: ignore[misc]
    def __init__(self, manager: OneModel, state: OneManager, reader: Reader, answers: Answers):
        super().__init__(manager, state)
        self._reader, self._answers = reader, answers

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Any:
        del request_id  # as above
        wanted = _read(self._reader.text, body)
        prompt = body["prompt"] if isinstance(body["prompt"], str) else body["prompt"][0]
        passed = _passed(self._reader.name, wanted) | {"prompt": prompt}
        self._answers.expect(wanted)
        try:
            return _closed(await super().handle_request(passed, wanted.id))
        finally:
            self._answers.forget(wanted)


def _read(read: Callable[[Mapping[str, Any]], Wanted], body: Mapping[str, Any]) -> Wanted:
    try:
        return read(body)
    except Refused as error:
        found = {"message": str(error), "param": error.field}
        raise HTTPException(error.status, found) from error


def _closed(response: Any) -> Any:
    """A stream with the mark behind it that the API ends with, and the library leaves out."""
    if isinstance(response, StreamingResponse):
        pieces = response.body_iterator

        async def marked() -> AsyncIterator[Any]:
            async for piece in pieces:
                yield piece
            yield "data: [DONE]\n\n"

        response.body_iterator = marked()
    return response


def _passed(name: str, wanted: Wanted) -> dict[str, Any]:
    """What the library's handler is to know; the rest `Answers` has been told of."""
    longest = {"max_new_tokens": wanted.settings["max_new_tokens"]}
    return {"model": name, "stream": wanted.stream, "generation_config": json.dumps(longest)}


def make_app(reader: Reader, model: Any, tokenizer: Any, answers: Answers, local: bool) -> Any:
    """The application, as uvicorn runs it.

    Args:
        reader: of requests to the model.
        model: in evaluation mode.
        tokenizer: the model's.
        answers: generates them.
        local: refuse requests that name another host than this machine: a page that a browser here
            has open could otherwise reach the endpoint under a name of its own.
    """
    manager, state = OneModel(reader.name, model, tokenizer), OneManager(answers)
    parts: dict[str, Any] = {
        "model_manager": manager,
        "generation_state": state,
        "chat_handler": _Chats(manager, state, reader, answers),
        "completion_handler": _Texts(manager, state, reader, answers),
    }
    # handlers of routes that are taken off; which there are depends on the library's version
    needed = [name for name in inspect.signature(build_server).parameters if "handler" in name]
    app = build_server(**(dict.fromkeys(needed) | parts))
    app.router.routes[:] = [one for one in app.routes if getattr(one, "path", "") in ROUTES]
    app.add_exception_handler(starlette.exceptions.HTTPException, _told)
    app.add_exception_handler(RequestValidationError, _unreadable)
    app.add_exception_handler(Cancelled, _ended)
    app.add_exception_handler(Exception, _broken)
    if local:
        app.add_middleware(
            TrustedHostMiddleware, allowed_hosts=["localhost", "127.0.0.1", "[::1]", "::1"]
        )
    return app


async def _told(_: Request, error: Any) -> JSONResponse:
    found = error.detail if isinstance(error.detail, dict) else {"message": str(error.detail)}
    return _fault(error.status_code, **found)


async def _unreadable(_: Request, error: Any) -> JSONResponse:
    del error
    return _fault(400, "the body must be a JSON object, sent as application/json")


async def _ended(_: Request, error: Any) -> JSONResponse:
    del error
    return _fault(503, "the server ends")


async def _broken(_: Request, error: Any) -> JSONResponse:
    """What nobody foresaw; the library's server writes the whole story to stderr."""
    return _fault(500, f"the answer failed: {type(error).__name__}")


def _fault(status: int, message: str, param: str | None = None) -> JSONResponse:
    """An error in the form that clients of the API read."""
    kind = "invalid_request_error" if status < 500 else "server_error"
    found = {"message": message, "type": kind, "param": param, "code": None}
    return JSONResponse({"error": found}, status)


class _Server(uvicorn.Server):
    """uvicorn's server, which says when it answers and ends answers before it ends."""

    def __init__(self, config: uvicorn.Config, ready: Callable[[], None], answers: Answers) -> None:
        super().__init__(config)
        self._ready, self._answers = ready, answers

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._answers.stop()
        await super().shutdown(sockets)


def serve(
    reader: Reader,
    model: Any,
    tokenizer: Any,
    compute: str,
    taken: socket.socket,
    ready: Callable[[], None],
    local: bool,
) -> None:
    """Answer until SIGINT or SIGTERM; the signal is raised again when all has ended.

    Args:
        reader: of requests to the model.
        model: in evaluation mode.
        tokenizer: the model's.
        compute: format of the arithmetic, as `build/loss.py` takes it.
        taken: bound and not listening.
        ready: called when the first request may come.
        local: see `make_app`.
    """
    # the library tells of every request as a warning
    logging.getLogger("transformers.cli.serving").setLevel(logging.ERROR)
    answers = Answers(compute)
    app = make_app(reader, model, tokenizer, answers, local)
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, timeout_graceful_shutdown=_PATIENCE
    )
    try:
        _Server(config, ready, answers).run(sockets=[taken])
    finally:
        answers.stop()
        answers.settle(_PATIENCE)
