"""Padding: by place, on either side, to a multiple, never over the longest sample allowed."""

from __future__ import annotations

import torch

from llmforge.build.collate import Collator

END = 9
"""Ends sequences and pads them as well, the trap this collator must not fall into."""

SHORT = {"input_ids": [5, END], "labels": [-100, END], "length": 2, "source_row": 0}
LONG = {"input_ids": [5, 6, 7, 8, END], "labels": [-100, -100, 7, 8, END], "length": 5}


def test_right_padding():
    batch = Collator(pad_id=END)([SHORT, LONG])
    assert batch["input_ids"].tolist() == [[5, END, END, END, END], [5, 6, 7, 8, END]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert batch["labels"].tolist() == [[-100, END, -100, -100, -100], [-100, -100, 7, 8, END]]
    assert set(batch) == {"input_ids", "attention_mask", "labels"}
    assert all(values.dtype == torch.int64 for values in batch.values())


def test_left_padding_counts_positions_from_the_first_token():
    batch = Collator(pad_id=END, side="left")([SHORT, LONG])
    assert batch["input_ids"].tolist()[0] == [END, END, END, 5, END]
    assert batch["attention_mask"].tolist()[0] == [0, 0, 0, 1, 1]
    assert batch["labels"].tolist()[0] == [-100, -100, -100, -100, END]
    assert batch["position_ids"].tolist() == [[0, 0, 0, 0, 1], [0, 1, 2, 3, 4]]


def test_padded_to_a_multiple():
    assert Collator(pad_id=0, multiple=8)([SHORT, LONG])["labels"].shape == (2, 8)
    assert Collator(pad_id=0, multiple=5)([SHORT, LONG])["labels"].shape == (2, 5)


def test_never_over_the_longest_sample_allowed():
    assert Collator(pad_id=0, multiple=8, max_length=6)([SHORT, LONG])["labels"].shape == (2, 6)
    assert Collator(pad_id=0, multiple=8, max_length=64)([SHORT, LONG])["labels"].shape == (2, 8)
