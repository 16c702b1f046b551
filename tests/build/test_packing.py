"""Packs: nothing lost, nothing twice, nearly full; kept on disk; read as items."""

from __future__ import annotations

import copy
import pickle
from itertools import pairwise
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmforge.build.packing import FILE, PackedDataset, Packs, pack


def lognormal(samples: int, seed: int = 0) -> np.ndarray:
    """The reference set: median 181 tokens, mean 291, from 8 to 2,048."""
    drawn = np.random.default_rng(seed).lognormal(5.2, 1.0, samples)
    return np.clip(drawn.astype(np.int64), 8, 2048)


def as_lists(packs: Packs) -> list[list[int]]:
    return [packs[number].tolist() for number in range(len(packs))]


def test_the_longest_first_each_where_least_room_is_left():
    # 9 opens a pack, 7 another, 3 fits 7 exactly and not 9, 1 fits 9 exactly
    assert as_lists(pack(np.array([1, 3, 7, 9]), 10)) == [[0, 3], [1, 2]]


def test_packs_follow_the_order_of_the_data():
    assert as_lists(pack(np.array([5, 5, 5, 5]), 10)) == [[0, 1], [2, 3]]
    # the longest sample is the last: its pack still comes second
    assert as_lists(pack(np.array([6, 3, 9]), 10)) == [[0, 1], [2]]


def test_of_equal_samples_the_earlier_row_is_placed_first():
    packs = pack(np.array([4, 8, 4, 8, 4]), 12)
    assert as_lists(packs) == [[0, 1], [2, 3], [4]]


def test_counts():
    packs = pack(np.array([6, 3, 9]), 10)
    assert (len(packs), packs.tokens, packs.capacity) == (2, 18, 10)
    assert packs.efficiency == pytest.approx(0.9)


@given(
    st.integers(1, 70).flatmap(
        lambda capacity: st.tuples(
            st.just(capacity), st.lists(st.integers(1, capacity), min_size=1, max_size=80)
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_every_row_once_and_no_pack_overfull(drawn):
    capacity, lengths = drawn
    packs = pack(np.array(lengths), capacity)
    assert sorted(packs.rows.tolist()) == list(range(len(lengths)))
    assert packs.starts[0] == 0
    assert packs.starts[-1] == len(lengths)
    filled = [sum(lengths[row] for row in rows) for rows in as_lists(packs)]
    assert all(0 < tokens <= capacity for tokens in filled)
    assert sum(filled) == packs.tokens == sum(lengths)
    # no two packs fit into one: best fit would have put them there
    assert sum(tokens * 2 <= capacity for tokens in filled) <= 1
    again = pack(np.array(lengths, dtype=np.int32), capacity)
    assert again.rows.tolist() == packs.rows.tolist()


@given(st.lists(st.integers(1, 12), min_size=1, max_size=60))
@settings(max_examples=50, deadline=None)
def test_the_same_packs_as_placing_samples_one_by_one(lengths):
    capacity = 12
    room: list[int] = []
    members: list[list[int]] = []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        fitting = [number for number, left in enumerate(room) if left >= lengths[row]]
        if not fitting:
            fitting = [len(room)]
            room.append(capacity)
            members.append([])
        # which of two packs with the same room is taken makes no difference to any count
        best = min(fitting, key=lambda number: room[number])
        room[best] -= lengths[row]
        members[best].append(lengths[row])
    packs = pack(np.array(lengths), capacity)
    found = [sorted((lengths[row] for row in rows), reverse=True) for rows in as_lists(packs)]
    assert len(found) == len(members)
    assert sorted(map(sum, found)) == sorted(map(sum, members))


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_reference_set_is_packed_to_the_bound(seed):
    lengths = lognormal(100_000, seed)
    packs = pack(lengths, 2048)
    least = -(-int(lengths.sum()) // 2048)
    assert packs.efficiency >= 0.999
    assert len(packs) <= least * 1.001


@pytest.mark.parametrize("capacity", [2048, 100_000])
def test_long_packs_too(capacity):
    # above 65,535 tokens lengths are sorted another way
    lengths = lognormal(20_000)
    packs = pack(lengths, capacity)
    assert np.array_equal(np.sort(packs.rows), np.arange(20_000))
    sums = np.add.reduceat(lengths[packs.rows], packs.starts[:-1])
    assert sums.max() <= capacity
    assert all(np.all(np.diff(rows) > 0) for rows in map(np.array, as_lists(packs)))
    firsts = packs.rows[packs.starts[:-1]]
    assert np.all(np.diff(firsts) > 0)


@pytest.mark.parametrize(
    ("lengths", "words"),
    [
        (np.array([3, 11, 2]), "sample 1 has 11 tokens, a pack holds 1 to 10"),
        (np.array([3, 0]), "sample 1 has 0 tokens"),
        (np.array([], dtype=np.int64), "at least one"),
        (np.array([[3]]), "at least one"),
        (np.array([3.5]), "whole number"),
    ],
)
def test_lengths_that_cannot_be_packed(lengths, words):
    with pytest.raises(ValueError, match=words):
        pack(lengths, 10)


def test_saved_and_mapped(tmp_path: Path):
    packs = pack(lognormal(5000), 2048)
    packs.save(tmp_path)
    again = Packs.load(tmp_path)
    assert np.array_equal(again.rows, packs.rows)
    assert np.array_equal(again.starts, packs.starts)
    assert (again.capacity, again.tokens) == (packs.capacity, packs.tokens)
    assert not again.rows.flags.owndata, "a view of the file"
    assert len(pickle.dumps(again)) < 1000, "another process maps the file as well"
    assert np.array_equal(copy.copy(again).rows, packs.rows)
    assert np.array_equal(copy.copy(packs).rows, packs.rows)


def test_damaged_file(tmp_path: Path):
    pack(np.array([3, 4]), 10).save(tmp_path)
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="holds no packs"):
        Packs.load(tmp_path)
    (tmp_path / FILE).unlink()
    with pytest.raises(FileNotFoundError):
        Packs.load(tmp_path)


@pytest.fixture
def samples(tmp_path: Path) -> datasets.Dataset:
    """Twenty mapped samples of 1 to 5 tokens, in several Arrow batches; half of each is trained."""
    rows = []
    for number in range(20):
        ids = [100 * number + place for place in range(1 + number % 5)]
        labels = [-100 if place < len(ids) // 2 else id_ for place, id_ in enumerate(ids)]
        rows.append({"input_ids": ids, "labels": labels, "length": len(ids), "source_row": number})
    whole = datasets.Dataset.from_list(rows)
    whole.save_to_disk(tmp_path / "samples", num_shards=3)
    return datasets.load_from_disk(str(tmp_path / "samples"))


def check_items(packed: PackedDataset, samples: datasets.Dataset) -> None:
    for number in range(len(packed)):
        item, rows = packed[number], packed.packs[number].tolist()
        inside = [samples[row] for row in rows]
        assert item["input_ids"].tolist() == [id_ for one in inside for id_ in one["input_ids"]]
        assert item["segments"] == [one["length"] for one in inside]
        assert item["length"] == sum(item["segments"]) == len(item["labels"])
        expected = [[-100, *one["labels"][1:]] for one in inside]
        assert item["labels"].tolist() == [label for one in expected for label in one]


def test_items(samples):
    packed = PackedDataset(samples, pack(np.array(samples["length"]), 8))
    check_items(packed, samples)
    assert packed[-1]["length"] == packed[len(packed) - 1]["length"]
    assert len(list(packed)) == len(packed) < 20
    with pytest.raises(IndexError):
        packed[len(packed)]
    assert samples[0]["labels"][0] == 0, "what is mapped is not written to"


def test_a_selection_in_another_order(samples):
    chosen = samples.select([7, 3, 11, 2, 19])
    check_items(PackedDataset(chosen, pack(np.array(chosen["length"]), 8)), chosen)


def test_in_the_processes_of_a_data_loader(samples, tmp_path):
    pack(np.array(samples["length"]), 8).save(tmp_path)
    packed = PackedDataset(samples, Packs.load(tmp_path))
    before = packed[0]["input_ids"].tolist()  # views are made, and must not be sent
    assert len(pickle.dumps(packed)) < 20_000
    loader = torch.utils.data.DataLoader(
        packed, num_workers=1, multiprocessing_context="spawn", collate_fn=lambda_free
    )
    items = list(loader)
    assert items[0] == before
    assert len(items) == len(packed)


def lambda_free(items: list[dict]) -> list[int]:
    return items[0]["input_ids"].tolist()


def test_packs_of_another_set(samples):
    with pytest.raises(ValueError, match="packs of 3 samples for a set of 20"):
        PackedDataset(samples, pack(np.array([1, 2, 3]), 8))


def test_labels_of_neighbours_never_meet(samples):
    """What the shifted loss asks at a border is never a token of the next sample."""
    packed = PackedDataset(samples, pack(np.array(samples["length"]), 8))
    for item in packed:
        borders = np.cumsum([0, *item["segments"]])
        for begin, end in pairwise(borders.tolist()):
            assert item["labels"][begin] == -100
            own = set(range(int(item["input_ids"][begin]), int(item["input_ids"][begin]) + 5))
            assert set(item["labels"][begin:end].tolist()) <= own | {-100}
