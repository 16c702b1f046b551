"""Rows to token ids and labels: what carries loss is decided here, by place and never by token id.

In: rows of one shape and a tokenizer. Out: one `Sample` or `Rejected` per row, in order;
`sample.fit` cuts them later. `lm_sample`, `completion_sample` and `chat_sample` build the three
collator kinds. `layout.py` lays a row out as text with the characters that carry loss; texts are
tokenised once, whole, and a token's label depends on where in the text it stands.

What is trained:
* `lm`: every token and the end token.
* `completion`: from the end of the prompt's last non-blank character on, and the end token. The
  white space between the two is the completion's: byte-level tokens begin with their space, so
  " yes" after "A:" is one token, and masking it for the space that the prompt brought would leave
  "yes" untrained. Prompt and completion are joined as written, by a newline when neither has white
  space there; answering strips the prompt the same way. Of text parts, the last one is the
  completion and the separator before it is masked. With `prefix_end`, loss begins behind the
  marker.
* `chat`: of each assistant turn (or the last, or those flagged) what the template's generation
  marks enclose; without such marks, everything after the generation prompt up to the end of turn,
  while what the template writes behind that, such as ChatML's newline, is masked. The end of turn
  carries loss even where the marks leave it out, and never when `train_end_of_turn` is off.

A token that reaches over a border is not trained, unless it holds only white space of what stands
before it (`encode.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from llmforge.build.encode import Encoded, Encoder
from llmforge.build.layout import Laid, lay_out_chat, lay_out_completion, lay_out_lm
from llmforge.build.sample import IGNORED, Ids, Rejected, Sample
from llmforge.build.templates import leading_ids, special_ids, stop_ids
from llmforge.plan import Plan
from llmforge.sources.base import Row

SampleBuilder = Callable[[Sequence[Row], Any, Plan], list[Sample | Rejected]]


_LayOut = Callable[[Sequence[Row], Any, Any], list[Laid | Rejected]]
"""Rows, tokenizer, collator settings."""


@dataclass(frozen=True)
class Masker:
    """A builder of samples in steps, so that texts can be encoded while others are masked."""

    _lay_out: _LayOut

    def __call__(self, rows: Sequence[Row], tokenizer: Any, plan: Plan) -> list[Sample | Rejected]:
        """One entry per row; see the module for what carries loss.

        Raises:
            DataRefused: the rows have another shape than this collator needs, or the chat template
                can be used for none of them.
        """
        laid = self._lay_out(rows, tokenizer, plan.spec.collator)
        mask = _Mask(tokenizer, plan)
        return mask.samples(laid, mask.encoder.encode(texts_of(laid)))

    def begin(
        self, rows: Sequence[Row], tokenizer: Any, plan: Plan
    ) -> Callable[[], list[Sample | Rejected]]:
        """Lay the rows out and have them encoded in a thread; what is returned gives the samples.

        Raises:
            DataRefused: as above.
        """
        laid = self._lay_out(rows, tokenizer, plan.spec.collator)
        mask = _Mask(tokenizer, plan)
        running = mask.encoder.encode_in_thread(texts_of(laid))
        return lambda: mask.samples(laid, running.result())


def texts_of(laid: Sequence[Laid | Rejected]) -> list[str]:
    """What is to be encoded."""
    return [item.text for item in laid if not isinstance(item, Rejected)]


def begin(
    build: SampleBuilder, rows: Sequence[Row], tokenizer: Any, plan: Plan
) -> Callable[[], list[Sample | Rejected]]:
    """Begin to build samples, with any builder; what is returned gives `build(...)`'s samples.

    A caller that begins a batch before it asks for the one before keeps the tokenizer busy. The
    texts and encodings of every batch begun are held, some 200 bytes for each token.
    """
    if isinstance(build, Masker):
        return build.begin(rows, tokenizer, plan)
    return partial(build, rows, tokenizer, plan)  # a collator that a plugin brings


def samples_ahead(
    build: SampleBuilder, batches: Iterable[Sequence[Row]], tokenizer: Any, plan: Plan
) -> Iterator[tuple[Sequence[Row], list[Sample | Rejected]]]:
    """Every batch with what `build` makes of it, in order, each begun one ahead of its use."""
    held: tuple[Sequence[Row], Callable[[], list[Sample | Rejected]]] | None = None
    for batch in batches:
        begun = begin(build, batch, tokenizer, plan)
        if held is not None:
            yield held[0], held[1]()
        held = batch, begun
    if held is not None:
        yield held[0], held[1]()


_NOTHING: Ids = np.empty(0, np.int32)


class _Mask:
    """The last step: encoded texts to samples, with one tokenizer's marks and end tokens."""

    def __init__(self, tokenizer: Any, plan: Plan) -> None:
        self.encoder = Encoder(tokenizer)
        self._bos, self._eos = leading_ids(tokenizer), tokenizer.eos_token_id
        self._special, self._stops = special_ids(tokenizer), stop_ids(tokenizer)
        self._train_end = getattr(plan.spec.collator, "train_end_of_turn", True)

    def samples(
        self, laid: Sequence[Laid | Rejected], encodings: Sequence[Any]
    ) -> list[Sample | Rejected]:
        """`encodings` are those of `texts_of(laid)`."""
        left = iter(encodings)
        return [
            item
            if isinstance(item, Rejected)
            else self._sample(item, self.encoder.placed(item.text, next(left)))
            for item in laid
        ]

    def _sample(self, laid: Laid, encoded: Encoded) -> Sample:
        labels = np.full(len(encoded.ids), IGNORED, dtype=np.int32)
        if laid.turns:
            return self._turns(laid, encoded, labels)
        for begin, end in laid.spans:
            place = slice(encoded.first(begin), encoded.end(end))
            labels[place] = encoded.ids[place]
        if laid.chat:
            return Sample(encoded.ids, labels, laid.prompt)
        return Sample(*self._wrapped(encoded.ids, labels), laid.prompt)

    def _wrapped(self, ids: Ids, labels: Ids) -> tuple[Ids, Ids]:
        """BOS where the tokenizer uses one, and EOS; what the text brings is not doubled."""
        if self._eos is None:
            raise ValueError("the tokenizer has no end token, so no answer could ever stop")
        begun = bool(len(ids)) and bool(self._bos) and ids[0] == self._bos[0]
        before = _NOTHING if begun or not self._bos else np.array(self._bos, np.int32)
        ended = bool(len(ids)) and ids[-1] == self._eos
        after = _NOTHING if ended else np.array([self._eos], np.int32)
        masked = np.full_like(before, IGNORED)
        return np.concatenate((before, ids, after)), np.concatenate((masked, labels, after))

    def _turns(self, laid: Laid, encoded: Encoded, labels: Ids) -> Sample:
        ids, closed = encoded.ids, True
        for begin, end in laid.spans:
            first, behind = encoded.first(begin), encoded.end(end)
            stop = self._end_of_turn(encoded, first, behind)
            if stop is None and behind < len(ids) and ids[behind] in self._stops:
                stop = behind  # the marks leave it out
                behind += 1
            closed = stop is not None
            if stop is not None and not self._train_end:
                behind = stop
            elif stop is not None and not laid.stated:
                behind = stop + 1
            labels[first:behind] = ids[first:behind]
        if laid.answered and not closed and self._train_end and self._eos is not None:
            # the template leaves the last answer open; without an end, it would never stop
            end_token = np.array([self._eos], dtype=np.int32)
            ids, labels = np.concatenate((ids, end_token)), np.concatenate((labels, end_token))
        return Sample(ids, labels, laid.prompt)

    def _end_of_turn(self, encoded: Encoded, first: int, behind: int) -> int | None:
        """The token that ends a turn: the template's own, else the last special one.

        Only special tokens and blank text may stand behind it: a mark inside of an answer, such as
        one that opens a tool call, does not end it.
        """
        last = None
        for place in range(behind - 1, first - 1, -1):
            id_ = int(encoded.ids[place])
            if self._stops and id_ == self._stops[0]:
                return place
            if id_ in self._special:
                last = place if last is None else last
            elif not encoded.blank(place):
                break
        return last


def mask_of(tokenizer: Any, plan: Plan) -> _Mask:
    """The last step of a `Masker`, for builders that lay rows out in another way."""
    return _Mask(tokenizer, plan)


lm_sample = Masker(lay_out_lm)
"""Every token and the end token carry loss. Rows of any shape."""

completion_sample = Masker(lay_out_completion)
"""The completion and the end token carry loss. Rows of shape `prompt_completion`, `text_parts` or
`instruction`."""

chat_sample = Masker(lay_out_chat)
"""Assistant turns and their ends carry loss. Rows of shape `messages`, or `instruction`, or prompt
and completion taken as one question and its answer."""
