"""Samples, and what cutting them leaves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.build.sample import IGNORED, Rejected, Sample, fit

SAMPLE = Sample([1, 2, 3, 4, 5, 6], [IGNORED, IGNORED, 3, 4, 5, 6], "one and two?")


def test_the_first_token_never_carries_loss():
    sample = Sample([3, 4], [3, 4])
    assert sample.labels.tolist() == [IGNORED, 4]
    assert sample.trained == 1
    assert (sample.ids.dtype, sample.labels.dtype) == (np.int32, np.int32)


def test_a_piece_does_not_change_the_whole_it_was_cut_from():
    [piece] = fit(SAMPLE, 3, "left")
    assert piece.labels.tolist() == [IGNORED, 5, 6]
    assert SAMPLE.labels.tolist() == [IGNORED, IGNORED, 3, 4, 5, 6]


def test_ids_and_labels_must_be_as_many():
    with pytest.raises(ValueError, match="2 ids and 1 labels"):
        Sample([1, 2], [1])


def test_short_enough_is_left_alone():
    [same] = fit(SAMPLE, 6, "drop")
    assert same is SAMPLE
    assert same.cut == 0


def test_right_cuts_the_end():
    assert fit(SAMPLE, 4, "right") == [
        Sample([1, 2, 3, 4], [IGNORED, IGNORED, 3, 4], "one and two?", cut=2)
    ]


def test_left_cuts_the_start():
    assert fit(SAMPLE, 4, "left") == [
        Sample([3, 4, 5, 6], [IGNORED, 4, 5, 6], "one and two?", cut=2)
    ]


@pytest.mark.parametrize("truncation", ["drop", "refuse"])
def test_drop_and_refuse_reject_and_say_how_long_it_was(truncation: str):
    assert fit(SAMPLE, 5, truncation) == Rejected("over_max_length", "6 tokens")


def test_split_gives_pieces_one_behind_the_other():
    assert fit(SAMPLE, 4, "split") == [
        Sample([1, 2, 3, 4], [IGNORED, IGNORED, 3, 4], "one and two?"),
        Sample([5, 6], [IGNORED, 6], ""),
    ]


def test_pieces_without_anything_to_learn_are_left_out_and_counted():
    assert fit(SAMPLE, 2, "split") == [
        Sample([3, 4], [IGNORED, 4], "", cut=2),
        Sample([5, 6], [IGNORED, 6], ""),
    ]


@pytest.mark.parametrize("truncation", ["right", "left", "split"])
def test_nothing_left_to_learn_is_rejected(truncation: str):
    masked = Sample([1, 2, 3, 4], [IGNORED, IGNORED, IGNORED, IGNORED])
    assert fit(masked, 4, truncation) == Rejected("no_trained_token")
    assert fit(masked, 2, truncation) == Rejected(
        "no_trained_token", "nothing to learn is left of 4 tokens"
    )
    assert fit(Sample([3], [3]), 8, truncation) == Rejected("no_trained_token")


labelled = st.lists(st.tuples(st.integers(0, 9), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=60, deadline=None)
@given(labelled, st.integers(2, 12), st.sampled_from(["right", "left", "split"]))
def test_every_token_is_in_a_piece_or_counted_as_cut(tokens, max_length, truncation):
    ids = [id_ for id_, _ in tokens]
    whole = Sample(ids, [id_ if learnt else IGNORED for id_, learnt in tokens])
    pieces = fit(whole, max_length, truncation)
    if isinstance(pieces, Rejected):
        return
    assert sum(len(piece.ids) for piece in pieces) + sum(p.cut for p in pieces) == len(ids)
    for piece in pieces:
        assert len(piece.ids) <= max_length
        assert piece.trained >= 1
        assert piece.labels[0] == IGNORED
        learnt = piece.labels != IGNORED
        assert np.array_equal(piece.labels[learnt], piece.ids[learnt])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=2, max_size=40), st.integers(2, 12))
def test_split_pieces_joined_give_the_whole(ids, max_length):
    pieces = fit(Sample(ids, ids), max_length, "split")
    assert not isinstance(pieces, Rejected)
    joined = [int(id_) for piece in pieces for id_ in piece.ids]
    # all is learnt here, so only a last piece of one token has nothing to learn
    alone = len(ids) % max_length == 1 and len(ids) > max_length
    assert joined == (ids[:-1] if alone else ids)
    assert pieces[0].cut == alone
