"""What a sample is: token ids with labels, and how it is cut to the length that is allowed.

In: a sample. Out: the samples that fit, or the reason why there is none. What carries loss is
decided in `tokenize.py`; how text becomes ids is in `encode.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

IGNORED = -100
"""Label of a token without loss (PyTorch's `ignore_index`)."""

REJECTED_IDS, REJECTED_LABELS = "rejected_input_ids", "rejected_labels"
"""Columns of the worse answers of pairs, beside `input_ids` and `labels` of the better ones."""

Ids = NDArray[np.int32]


@dataclass(eq=False, init=False)
class Sample:
    """One row in tokens, or one piece of it.

    The first label is always -100, whatever is given: a first token is never predicted. So the
    tokens counted here are those that the Trainer counts, and samples packed one behind the other
    do not teach a model to begin the next one.

    Raises:
        ValueError: ids and labels differ in number.
    """

    ids: Ids
    labels: Ids
    """As long as `ids`: the token itself where it carries loss, else -100. Not shifted."""
    prompt: str
    """What a person would read as the question to the last answer."""
    cut: int
    """Tokens of the row that are in no sample; stands at the first of a row's samples."""

    def __init__(self, ids: ArrayLike, labels: ArrayLike, prompt: str = "", cut: int = 0) -> None:
        self.ids = np.asarray(ids, dtype=np.int32)
        self.labels = np.asarray(labels, dtype=np.int32)
        if len(self.ids) != len(self.labels):
            raise ValueError(f"{len(self.ids)} ids and {len(self.labels)} labels")
        if len(self.labels) and self.labels[0] != IGNORED:
            self.labels = self.labels.copy()  # a piece shares its memory with the whole
            self.labels[0] = IGNORED
        self.prompt, self.cut = prompt, cut

    @property
    def trained(self) -> int:
        """Tokens with loss."""
        return int(np.count_nonzero(self.labels != IGNORED))

    @property
    def size(self) -> int:
        """Tokens in all."""
        return len(self.ids)

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence: the length that must fit."""
        return len(self.ids)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Sample)
            and np.array_equal(self.ids, other.ids)
            and np.array_equal(self.labels, other.labels)
            and (self.prompt, self.cut) == (other.prompt, other.cut)
        )

    __hash__ = None  # type: ignore[assignment]  # arrays can be changed


@dataclass(eq=False, init=False)
class Pair(Sample):
    """Two answers to one prompt; as a sample it is the better one."""

    rejected: Sample
    """Prompt and worse answer."""

    def __init__(self, chosen: Sample, rejected: Sample) -> None:
        super().__init__(chosen.ids, chosen.labels, chosen.prompt)
        self.rejected = rejected

    @property
    def size(self) -> int:
        """Tokens of both, the prompt counted twice."""
        return len(self.ids) + len(self.rejected.ids)

    @property
    def longest(self) -> int:
        """Tokens of the longer one."""
        return max(len(self.ids), len(self.rejected.ids))

    def __eq__(self, other: object) -> bool:
        same = isinstance(other, Pair) and self.rejected == other.rejected
        return same and super().__eq__(other)

    __hash__ = None  # arrays can be changed


@dataclass(frozen=True)
class Rejected:
    """A row that becomes no sample."""

    reason: str
    """`empty`, `no_trained_token`, `over_max_length`, `template` (the chat template refuses the
    row, or does not render it so that its answers can be found) or `same_answers` (of a pair, in
    tokens, after cutting)."""
    detail: str = ""
    """What to tell people: the template's message, the row's length. May be empty."""


def fit(sample: Sample, max_length: int, truncation: str) -> list[Sample] | Rejected:
    """Cut a sample to `max_length` tokens, or reject it.

    `right` cuts the end, and with it the end token; `left` cuts the start; `split` cuts it into
    pieces of `max_length`, the last one shorter, one behind the other; `drop` and `refuse` reject
    it. Pieces without a token that carries loss are left out and counted in `cut`, like what is cut
    off; a sample of which nothing else is left is rejected. The first token of a piece carries no
    loss, having nothing before it to be told from.

    Of a pair each sequence is cut by itself, never split; it is rejected where one of the two is,
    or where nothing is left that tells them apart.
    """
    if isinstance(sample, Pair):
        return _fit_pair(sample, max_length, truncation)
    length = len(sample.ids)
    if length <= max_length:
        return [sample] if sample.trained else Rejected("no_trained_token")
    if truncation in ("drop", "refuse"):
        return Rejected("over_max_length", f"{length} tokens")
    starts = {"right": [0], "left": [length - max_length], "split": range(0, length, max_length)}
    pieces = []
    for start in starts[truncation]:
        place = slice(start, start + max_length)
        # the question stands at the start; what is split off has no question of its own
        prompt = "" if truncation == "split" and start else sample.prompt
        piece = Sample(sample.ids[place], sample.labels[place], prompt)
        if piece.trained:
            pieces.append(piece)
    if not pieces:
        return Rejected("no_trained_token", f"nothing to learn is left of {length} tokens")
    pieces[0].cut = sample.cut + length - sum(len(piece.ids) for piece in pieces)
    return pieces


def _fit_pair(pair: Pair, max_length: int, truncation: str) -> list[Sample] | Rejected:
    chosen = Sample(pair.ids, pair.labels, pair.prompt)
    fitted = []
    for name, side in (("chosen", chosen), ("rejected", pair.rejected)):
        found = fit(side, max_length, truncation)
        if isinstance(found, Rejected):
            return Rejected(found.reason, ", ".join(filter(None, (name, found.detail))))
        fitted.append(found[0])
    if np.array_equal(fitted[0].ids, fitted[1].ids):
        whole = pair.longest <= max_length
        return Rejected("same_answers", "" if whole else f"after cutting {pair.longest} tokens")
    made = Pair(*fitted)
    made.cut = pair.size - made.size
    return [made]
