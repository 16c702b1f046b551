"""Padding: by place, on either side, to a multiple, never over the longest sample allowed; and
packed samples: positions that begin anew, borders for flash attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

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


# packed samples

PACK = {"input_ids": np.array([1, 2, 3, 4, 5]), "labels": np.array([-100, 2, -100, 4, 5]),
        "segments": [2, 3], "length": 5}  # fmt: skip
SINGLE = {"input_ids": np.array([6, 7]), "labels": np.array([-100, 7]), "segments": [2]}


def test_positions_begin_anew_in_each_sample_and_in_the_padding():
    batch = Collator(pad_id=END, multiple=4)([PACK, SINGLE])
    assert batch["input_ids"].tolist() == [
        [1, 2, 3, 4, 5, END, END, END],
        [6, 7, END, END, END, END, END, END],
    ]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 1, 2], [0, 1, 0, 1, 2, 3, 4, 5]]
    assert batch["labels"].tolist() == [
        [-100, 2, -100, 4, 5, -100, -100, -100],
        [-100, 7, -100, -100, -100, -100, -100, -100],
    ]


def test_nothing_that_would_take_the_mask_away():
    batch = Collator(pad_id=END)([PACK, SINGLE])
    assert set(batch) == {"input_ids", "labels", "position_ids", "use_cache"}
    assert batch["use_cache"] is False


def test_packed_with_padding_on_the_left():
    batch = Collator(pad_id=END, side="left", multiple=4)([PACK])
    assert batch["input_ids"].tolist() == [[END, END, END, 1, 2, 3, 4, 5]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 0, 1, 2]]
    assert batch["labels"].tolist() == [[-100, -100, -100, -100, 2, -100, 4, 5]]


def test_packs_of_full_length_get_no_padding():
    batch = Collator(pad_id=END, multiple=8, max_length=5)([PACK])
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2]]


@pytest.mark.parametrize("attention", ["flash_attention_2", "kernels-community/flash-attn3"])
def test_flash_attention_gets_one_row_and_its_borders(attention):
    batch = Collator(pad_id=END, multiple=4, max_length=5, attention=attention)([PACK, SINGLE])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 4, 5, 6, 7, END]]
    assert batch["labels"].tolist() == [[-100, 2, -100, 4, 5, -100, 7, -100]]
    assert batch["position_ids"].tolist() == [[0, 1, 0, 1, 2, 0, 1, 0]]
    assert batch["cu_seq_lens_q"].tolist() == batch["cu_seq_lens_k"].tolist() == [0, 2, 5, 7, 8]
    assert batch["cu_seq_lens_q"].dtype == torch.int32
    assert (batch["max_length_q"], batch["max_length_k"]) == (3, 3)


def test_flash_attention_pads_what_is_not_packed():
    batch = Collator(pad_id=END, attention="flash_attention_2")([SHORT, LONG])
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]


def test_the_evaluation_set_of_each_sample_goes_along():
    batch = Collator(pad_id=0)([{**SHORT, "set": 1}, {**LONG, "set": 0}])
    assert batch["set"].tolist() == [1, 0]
    assert "set" not in Collator(pad_id=0)([SHORT])


@given(
    st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=4),
    st.sampled_from([1, 4, 8]),
    st.sampled_from(["left", "right"]),
    st.sampled_from(["sdpa", "flash_attention_2"]),
)
@settings(max_examples=50, deadline=None)
def test_every_token_once_at_its_place_in_its_sample(lengths, multiple, side, attention):
    packs, token = [], 1
    for segments in lengths:
        ids = np.arange(token, token + sum(segments))
        token += sum(segments)
        packs.append({"input_ids": ids, "labels": ids, "segments": segments})
    batch = Collator(0, side=side, multiple=multiple, attention=attention)(packs)
    ids, positions = batch["input_ids"], batch["position_ids"]
    assert ids.shape == positions.shape == batch["labels"].shape
    assert ids.shape[1] % multiple == 0
    assert ids[ids > 0].tolist() == list(range(1, token))
    assert (batch["labels"] == torch.where(ids > 0, ids, -100)).all()
    wanted = [place for segments in lengths for length in segments for place in range(length)]
    assert positions[ids > 0].tolist() == wanted
