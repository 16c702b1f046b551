"""Preference pairs to samples: each answer after the prompt, masked as fine-tuning would mask it.

In: rows of shape `preference` and a tokenizer. Out: one `Pair` or `Rejected` per row, in order.
Texts go the way of the collator `completion`, chats that of `chat` with the last turn trained, so
that prompt and chosen answer are token for token what fine-tuning on them would see. Cutting is
`sample.fit`'s affair, what is made of the log-probabilities that of `preference.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np

from llmforge.build.encode import Encoder
from llmforge.build.layout import Laid, lay_out_chat, lay_out_completion
from llmforge.build.sample import Pair, Rejected, Sample
from llmforge.build.tokenize import Masker, mask_of, texts_of
from llmforge.plan import Plan
from llmforge.sources.base import Row

_SIDES = ("chosen", "rejected")

_LIKE = SimpleNamespace(prefix_end=None, turns="last", separator="")
"""Settings of the collators that lay the answers out."""


@dataclass(frozen=True)
class PairMasker(Masker):
    """A builder of pairs, in steps like any other."""

    def __call__(self, rows: Sequence[Row], tokenizer: Any, plan: Plan) -> list[Sample | Rejected]:
        """One entry per row.

        Raises:
            DataRefused: the chat template can be used for none of the chats.
        """
        return self.begin(rows, tokenizer, plan)()

    def begin(
        self, rows: Sequence[Row], tokenizer: Any, plan: Plan
    ) -> Callable[[], list[Sample | Rejected]]:
        """Have the answers encoded in a thread; what is returned gives the pairs."""
        laid = [lay_out_side(rows, side, tokenizer) for side in _SIDES]
        running = [Encoder(tokenizer).encode_in_thread(texts_of(each)) for each in laid]
        return partial(_joined, laid, running, tokenizer, plan)


def lay_out_side(rows: Sequence[Row], side: str, tokenizer: Any) -> list[Laid | Rejected]:
    """Prompt and one of the two answers of each row as text, with the characters that carry loss.

    Args:
        rows: of shape `preference`; texts and chats may be mixed.
        side: `chosen` or `rejected`.
        tokenizer: for its chat template.
    """
    made: dict[int, Laid | Rejected] = {}
    for is_chat, lay_out in ((False, lay_out_completion), (True, lay_out_chat)):
        numbers = [
            n for n, row in enumerate(rows) if isinstance(row.values[side], Mapping) is is_chat
        ]
        as_rows = [_alone(rows[n], side, is_chat) for n in numbers]
        made |= dict(zip(numbers, lay_out(as_rows, tokenizer, _LIKE), strict=True))
    return [made[number] for number in range(len(rows))]


def _alone(row: Row, side: str, is_chat: bool) -> Row:
    """Prompt and one answer as a row of another shape."""
    prompt, answer = row.values["prompt"], row.values[side]
    if not is_chat:
        return Row(row.source, row.line, {"prompt": prompt, "completion": answer})
    values = {"messages": [*prompt, answer]}
    if "tools" in row.values:
        values["tools"] = row.values["tools"]
    return Row(row.source, row.line, values)


def _joined(
    laid: Sequence[Sequence[Laid | Rejected]], running: Sequence[Any], tokenizer: Any, plan: Plan
) -> list[Sample | Rejected]:
    mask = mask_of(tokenizer, plan)
    sides = [
        mask.samples(each, future.result()) for each, future in zip(laid, running, strict=True)
    ]
    return [_pair(chosen, rejected) for chosen, rejected in zip(*sides, strict=True)]


def _pair(chosen: Sample | Rejected, rejected: Sample | Rejected) -> Pair | Rejected:
    for name, side in zip(_SIDES, (chosen, rejected), strict=True):
        if isinstance(side, Rejected):
            return Rejected(side.reason, f"{name}: {side.detail}" if side.detail else name)
    assert isinstance(chosen, Sample)  # noqa: S101 - looked at above
    assert isinstance(rejected, Sample)  # noqa: S101 - looked at above
    if np.array_equal(chosen.ids, rejected.ids):
        return Rejected("same_answers")
    return Pair(chosen, rejected)


pair_samples = PairMasker(lay_out_completion)
"""Both answers and their ends carry loss. Rows of shape `preference`."""
