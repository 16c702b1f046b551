"""Padding of an epoch, foretold from the lengths."""

from __future__ import annotations

import numpy as np
import pytest

from llmforge.build.padding import foretell_padding


@pytest.fixture
def plan(make_plan):
    def make(**changes):
        keys = {"trainer.micro_batch": 2, "collator.max_length": 64, **changes}
        return make_plan({key.replace("__", "."): value for key, value in keys.items()})

    return make


def test_samples_of_one_length_have_none(plan):
    found = foretell_padding(plan(), [8] * 10)

    assert (found.tokens, found.share) == (0, 0.0)
    assert found.batches == "batches of 2"


def test_rounding_up_to_a_multiple_is_padding_too(plan):
    found = foretell_padding(plan(collator__pad_to_multiple=16), [10] * 4)

    assert found.tokens == 4 * 6


def test_rounding_never_goes_over_the_longest_allowed(plan):
    changes = {"collator__pad_to_multiple": 48}

    assert foretell_padding(plan(**changes), [60, 60]).tokens == 2 * 4


def test_batches_of_like_length_hold_less(plan):
    lengths = np.random.RandomState(0).randint(4, 64, 500)
    grouped = foretell_padding(plan(trainer__group_by_length=True), lengths)
    random = foretell_padding(plan(), lengths)

    assert grouped.share < 0.12 < random.share
    assert grouped.batches == "batches of 2 of like length"


def test_the_last_batch_may_be_smaller(plan):
    found = foretell_padding(plan(collator__pad_to_multiple=1), [5, 5, 5])

    assert found.tokens == 0


def test_packed_rows_are_full_but_for_their_ends(plan):
    found = foretell_padding(plan(), [30, 30, 60], packed_tokens=128)

    assert (found.tokens, found.share) == (8, 8 / 128)
