"""What a sample is: token ids with labels, how it is cut, and how text becomes ids with places.

In: texts, or a sample. Out: ids with the characters they stand for; a sample that fits, or the
reason why there is none. What carries loss is decided in `tokenize.py`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

IGNORED = -100
"""Label of a token without loss (PyTorch's `ignore_index`)."""

Encoded = tuple[list[int], list[int], list[int]]
"""A text's token ids, and the first and one-past-last character of each."""


@dataclass
class Sample:
    """One row in tokens."""

    ids: list[int]
    labels: list[int]
    """As long as `ids`: the token itself where it carries loss, else -100. Not shifted."""
    prompt: str = ""
    """What a person would read as the question to the last answer."""

    @property
    def trained(self) -> int:
        """Tokens with loss. The first token of a sample is never predicted, so never counted."""
        return sum(label != IGNORED for label in self.labels[1:])


@dataclass(frozen=True)
class Rejected:
    """A row that becomes no sample."""

    reason: str
    """`empty`, `no_trained_token` or `over_max_length`."""


def fit(sample: Sample, max_length: int, truncation: str) -> Sample | Rejected:
    """Cut a sample to `max_length` tokens, or reject it.

    `right` cuts the end, and with it the end token; `left` cuts the start; `drop` rejects. A sample
    left without a token that carries loss is rejected.
    """
    if len(sample.ids) > max_length:
        if truncation == "drop":
            return Rejected("over_max_length")
        cut = slice(-max_length, None) if truncation == "left" else slice(max_length)
        sample = Sample(sample.ids[cut], sample.labels[cut], sample.prompt)
    return sample if sample.trained else Rejected("no_trained_token")


def encode(tokenizer: Any, texts: list[str]) -> list[Encoded]:
    """Ids and places of each text, special tokens recognised and none added, nothing cut."""
    backend = tokenizer.backend_tokenizer
    # a tokenizer.json may carry a length of its own, which would cut samples silently
    backend.no_truncation()
    backend.no_padding()
    found = []
    for encoding in backend.encode_batch(texts, add_special_tokens=False):
        offsets = encoding.offsets
        found.append((encoding.ids, [at for at, _ in offsets], [end for _, end in offsets]))
    return found
