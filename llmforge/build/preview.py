"""What the model will see of a sample, token by token, through the collator that training uses.

In: parts of prepared data and a number of samples. Out: `Shown` samples: pieces of text, each
trained, masked or padding. How they are drawn is `stages/report.py`'s affair.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from llmforge.build.sample import IGNORED, REJECTED_IDS

State = Literal["trained", "masked", "padding"]


@dataclass(frozen=True)
class Shown:
    """One item of a batch."""

    title: str
    """`sample 17`, `pack 3 of 5 samples`."""
    pieces: list[tuple[str, State]]
    """Text of neighbouring tokens of one state; the start of a packed sample is marked by ⏐."""
    trained: int
    masked: int
    padding: int


def preview(dataset: Any, collator: Any, tokenizer: Any, count: int, seed: int) -> list[Shown]:
    """`count` items chosen by the seed, in the order of the data."""
    # RandomState: its stream is frozen across versions of numpy (NEP 19)
    order = np.random.RandomState(seed % 2**32).permutation(len(dataset))
    numbers = [int(n) for n in sorted(order[:count])]
    found = [(n, row) for n in numbers for row in range(2 if REJECTED_IDS in dataset[n] else 1)]
    return [_show(dataset[n], n, collator, tokenizer, row) for n, row in found]


def _show(item: dict[str, Any], number: int, collator: Any, tokenizer: Any, row: int) -> Shown:
    """A row of the batch that the item alone makes: of a pair there are two."""
    segments = [int(length) for length in item.get("segments", ())]
    batch = collator([item])
    ids, labels = batch["input_ids"][row].tolist(), batch["labels"][row].tolist()
    length = int(item["length"])
    title = f"pack {number} of {len(segments)} samples" if segments else f"sample {number}"
    if REJECTED_IDS in item:
        length = len(item[("input_ids", REJECTED_IDS)[row]])
        title = f"pair {number}, {('chosen', 'rejected')[row]}"
    begin = len(ids) - length if collator.side == "left" else 0
    real = [begin <= place < begin + length for place in range(len(ids))]
    # the first token of a sample carries no label, and yet it is the sample's
    states: list[State] = [
        "padding" if not there else "masked" if label == IGNORED else "trained"
        for label, there in zip(labels, real, strict=True)
    ]
    starts = set(np.cumsum([begin, *segments[:-1]]).tolist()) if len(segments) > 1 else set()
    return Shown(
        title,
        list(_pieces(ids, states, starts, tokenizer)),
        states.count("trained"),
        states.count("masked"),
        states.count("padding"),
    )


def _pieces(
    ids: Sequence[int], states: Sequence[State], starts: set[int], tokenizer: Any
) -> Iterator[tuple[str, State]]:
    """Neighbouring tokens of one state, decoded together: a character may be several tokens."""
    begin = 0
    for place in range(1, len(ids) + 1):
        if place < len(ids) and states[place] == states[begin] and place not in starts:
            continue
        text = tokenizer.decode(ids[begin:place])
        yield ("⏐" + text if begin in starts else text), states[begin]
        begin = place
