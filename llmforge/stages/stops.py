"""Where an answer ends by its text: stop strings, while it is generated and when it is shown.

In: a tokenizer, stop strings. Out: a criterion for the library's generation loop, text cut at the
first stop string, and a stream that never shows a part of one.

Tokens that end an answer (the end of turn) are `build/templates.py`'s business.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import StoppingCriteria, TextStreamer


def cut_at(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """The text before the stop string that comes first, and whether there was one."""
    places = [at for stop in stops if (at := text.find(stop)) >= 0]
    return (text[: min(places)], True) if places else (text, False)


def printable(text: str) -> str:
    """The text without control characters: a model may have learnt what moves a terminal's cursor,
    or sets its title."""
    return _CONTROL.sub("\N{REPLACEMENT CHARACTER}", text)


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class StopTexts(StoppingCriteria):  # type: ignore[misc]
    """Ends each row once its new text holds a stop string.

    Text is looked at and not tokens, since a stop string may begin or end inside a token.
    """

    def __init__(self, tokenizer: Any, stops: Sequence[str], prompt: int) -> None:
        """
        Args:
            tokenizer: of the model.
            stops: the stop strings.
            prompt: tokens before the answer, padding included; the same in each row.
        """
        self._tokenizer, self._stops, self._prompt = tokenizer, list(stops), prompt
        longest = max(len(stop.encode()) for stop in stops)
        # a token may be a single byte; eight more are for one that begins before the stop string
        self._window = longest + 8

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        """Rows that are done, `[rows]`."""
        del scores, kwargs
        tails = input_ids[:, max(self._prompt, input_ids.shape[1] - self._window) :]
        texts = self._tokenizer.batch_decode(
            tails, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )
        done = [any(stop in text for stop in self._stops) for text in texts]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


class Stream(TextStreamer):  # type: ignore[misc]
    """Hands text out as soon as its characters are whole and belong to no stop string.

    White space before the answer is left out, as it is from the text that `decode` gives, unless
    `strip` is false.
    """

    def __init__(
        self,
        tokenizer: Any,
        emit: Callable[[str], None],
        stops: Sequence[str] = (),
        strip: bool = True,
    ) -> None:
        super().__init__(
            tokenizer,
            skip_prompt=True,
            skip_special_tokens=True,
            clean_up_tokenization_spaces=False,
        )
        self._emit, self._stops = emit, list(stops)
        self._held, self._begun, self._ended = "", not strip, False

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """The library's hook: text that no later token changes."""
        if self._ended:
            return
        self._held += text
        shown, self._ended = cut_at(self._held, self._stops)
        keep = 0 if self._ended or stream_end else self._begins_a_stop(shown)
        ready, self._held = shown[: len(shown) - keep], shown[len(shown) - keep :]
        if not self._begun:
            ready = ready.lstrip()
        if ready:
            self._begun = True
            self._emit(ready)

    def _begins_a_stop(self, text: str) -> int:
        """Characters at the end that may be the beginning of a stop string."""
        longest = 0
        for stop in self._stops:
            for size in range(min(len(stop) - 1, len(text)), longest, -1):
                if text.endswith(stop[:size]):
                    longest = size
                    break
        return longest
