"""Answers of the server: generated as `llmforge generate` does, one after another.

In: what a request wants, queued by the library's handlers. Out: text, whole or piece by piece.
The library's own manager would leave stop strings in the text, read penalties from the checkpoint
and know nothing of the plan's arithmetic; this one puts llmforge's generation in its place.

All of it runs in one thread, in the order of the requests: the model's state is shared, and two
answers at once would take longer each. A client that goes away, or a server that ends, stops the
answer at its next token.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Collection
from typing import Any

from transformers.cli.serving.utils import (
    BaseGenerateManager,
    DirectStreamer,
    GenerationState,
    InferenceThread,
    _StreamError,
)

from llmforge.build.loss import autocast
from llmforge.build.templates import stop_ids
from llmforge.stages.generate import complete, decode
from llmforge.stages.serving.requests import Wanted
from llmforge.stages.stops import Stream, cut_at


class Cancelled(Exception):
    """Nobody waits for the answer any more."""


class Flow:
    """What the generation loop writes its tokens to.

    Has the two members that the library's handlers know of a streamer: `total_tokens`, `cancel`.
    """

    def __init__(self, ending: threading.Event, stops: Collection[int], inner: Any = None) -> None:
        """
        Args:
            ending: set when the server ends.
            stops: token ids that are no part of an answer.
            inner: streamer that gets every token.
        """
        self._ending, self._stops, self._inner = ending, frozenset(stops), inner
        self._cancelled = threading.Event()
        self._begun = False
        self.total_tokens = 0
        """Tokens of the answer so far, without the one that ended it."""

    def put(self, value: Any) -> None:
        """Take the prompt, then each token; ends the loop when the answer is not wanted."""
        if self._cancelled.is_set() or self._ending.is_set():
            raise Cancelled
        if self._begun:
            self.total_tokens += sum(id_ not in self._stops for id_ in value.flatten().tolist())
        self._begun = True
        if self._inner is not None:
            self._inner.put(value)

    def end(self) -> None:
        """The loop's word that no token follows."""
        if self._inner is not None:
            self._inner.end()

    def cancel(self) -> None:
        """End at the next token."""
        self._cancelled.set()


class _Trimmed:
    """Passes text on without white space at its end, as a whole answer is told."""

    def __init__(self, emit: Callable[[str], None]) -> None:
        self._emit, self._held = emit, ""

    def __call__(self, piece: str) -> None:
        text = self._held + piece
        ready = text.rstrip()
        self._held = text[len(ready) :]
        if ready:
            self._emit(ready)


class Answers(BaseGenerateManager):  # type: ignore[misc]
    """Generates what `expect` was told of, for the handlers of the library's server."""

    def __init__(self, compute: str) -> None:
        """
        Args:
            compute: format of the arithmetic, as `build/loss.py` takes it.
        """
        self._compute = compute
        self._thread = InferenceThread()
        self._ending = threading.Event()
        self._wanted: dict[str, Wanted] = {}

    def expect(self, wanted: Wanted) -> None:
        """The handler will ask for the answer under this id."""
        self._wanted[wanted.id] = wanted

    def forget(self, wanted: Wanted) -> None:
        """The handler has asked, or will not."""
        self._wanted.pop(wanted.id, None)

    def generate_streaming(
        self,
        model: Any,
        processor: Any,
        inputs: Any,
        gen_config: Any,
        request_id: str,
        response_parser: Any = None,
    ) -> tuple[asyncio.Queue[Any], Flow]:
        """The library's seam: a queue that gets pieces and then None, and the streamer."""
        del inputs, gen_config
        wanted = self._wanted[request_id]
        loop = asyncio.get_running_loop()
        queue: asyncio.Queue[Any] = asyncio.Queue()

        def emit(item: Any) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        stops = wanted.settings.get("stop") or []
        parsed = response_parser is not None and not stops
        if parsed:
            # this family's answers have parts (thoughts, calls) that the library tells apart
            inner: Any = DirectStreamer(processor.backend_tokenizer, loop, queue, response_parser)
        else:
            out = emit if wanted.whole else _Trimmed(emit)
            inner = Stream(processor, out, stops, strip=not wanted.whole)
        flow = Flow(self._ending, stop_ids(processor), inner)

        def work() -> None:
            try:
                self._generate(model, processor, wanted, flow)
            except Cancelled:
                emit(None)
            except Exception as error:  # whatever a device does: this answer ends, the server lives
                emit(_StreamError(_told(error).replace("\\", "/").replace('"', "'")))
            else:
                if not parsed:
                    emit(None)  # the library's streamer has said so itself

        self._thread.submit(work)
        return queue, flow

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str
    ) -> tuple[str, int, list[int]]:
        """The library's seam: text, tokens of the prompt, ids of the answer."""
        del inputs, gen_config
        wanted = self._wanted[request_id]
        flow = Flow(self._ending, stop_ids(processor))
        ids: list[int] = await self._thread.async_submit(
            self._generate, model, processor, wanted, flow
        )
        stops = wanted.settings.get("stop") or []
        if wanted.whole:
            text = processor.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
            return cut_at(text, stops)[0], len(wanted.ids), ids
        return decode(processor, ids, stops), len(wanted.ids), ids

    def _generate(self, model: Any, tokenizer: Any, wanted: Wanted, flow: Flow) -> list[int]:
        if self._ending.is_set():
            raise Cancelled
        with autocast(model, self._compute):
            (ids,) = complete(model, tokenizer, [wanted.ids], wanted.settings, 1, flow)
        return ids

    def stop(self) -> None:
        """End: the answer under way stops at its next token, those that wait are not begun."""
        self._ending.set()

    def settle(self, seconds: float) -> None:
        """Wait until nothing is generated any more, so that the process may end.

        In the middle of a long prompt no token comes to stop at: then the process ends without it.
        """
        with contextlib.suppress(TimeoutError):
            self._thread.submit(lambda: None).result(timeout=seconds)


class OneManager(GenerationState):  # type: ignore[misc]
    """The library's choice of managers, where there is one."""

    def __init__(self, answers: Answers) -> None:
        super().__init__()
        self._answers = answers

    def get_manager(self, model_id: str, use_cb: bool = False) -> Answers:
        """The one manager, whatever is asked for."""
        del model_id, use_cb
        return self._answers


def _told(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
