"""Several samples in one row: which ones go together, how that is kept on disk, how it is read.

In: the lengths of the prepared samples. Out: `Packs`, the row numbers of each pack; and
`PackedDataset`, which reads the samples of a pack as one item. This module does not keep packed
samples apart while the model sees them (`collate.py`) and does not prove that they are
(`canary.py`).

Packing is best-fit decreasing (Johnson 1973): the longest samples first, each into the pack where
the least room is left. Samples of one length are interchangeable, and so are packs with the same
room, so whole groups are placed at once: the work depends on the number of different lengths, not
on the number of samples.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import torch

from llmforge.build.sample import IGNORED

FILE = "packs.arrow"

Whole = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Packs:
    """Which samples stand in which pack: pack i holds `rows[starts[i]:starts[i + 1]]`."""

    rows: Whole
    """[samples] each row number once; within a pack in the order of the data."""
    starts: Whole
    """[packs + 1] where each pack begins in `rows`."""
    capacity: int
    """Tokens that a pack can hold."""
    tokens: int
    """Tokens that all packs hold together."""
    folder: Path | None = field(default=None, compare=False)
    """Where they were loaded from: another process maps the file, and nothing is copied."""

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Whole:
        """Row numbers of one pack."""
        return self.rows[self.starts[index] : self.starts[index + 1]]

    @property
    def efficiency(self) -> float:
        """Share of the packs' room that tokens fill, 0 to 1."""
        return self.tokens / (len(self) * self.capacity)

    def save(self, folder: Path) -> None:
        """Write `packs.arrow` (Arrow IPC, one list of row numbers per pack) into the folder.

        Flushing it to the disk is left to who publishes the folder.
        """
        packs = pa.LargeListArray.from_arrays(pa.array(self.starts), pa.array(self.rows))
        about = {"capacity": str(self.capacity), "tokens": str(self.tokens)}
        schema = pa.schema([("rows", packs.type)], metadata=about)
        with (
            pa.OSFile(str(folder / FILE), "wb") as sink,
            pa.ipc.new_file(sink, schema) as writer,
        ):
            writer.write_batch(pa.record_batch([packs], schema=schema))

    @classmethod
    def load(cls, folder: Path) -> Packs:
        """Map what `save` wrote; the arrays are read-only views of the file.

        Raises:
            FileNotFoundError: there is no `packs.arrow`.
            ValueError: the file is damaged or something else.
        """
        try:
            table = pa.ipc.open_file(pa.memory_map(str(folder / FILE))).read_all()
            about = {key.decode(): int(value) for key, value in table.schema.metadata.items()}
            packs = table.column("rows").chunk(0)
            return cls(
                rows=packs.values.to_numpy(zero_copy_only=True),
                starts=packs.offsets.to_numpy(zero_copy_only=True),
                capacity=about["capacity"],
                tokens=about["tokens"],
                folder=folder,
            )
        except (pa.ArrowInvalid, AttributeError, KeyError, IndexError) as error:
            raise ValueError(f"{folder / FILE} holds no packs: {error}") from error

    def __reduce__(self) -> tuple[Callable[..., Packs], tuple[Any, ...]]:
        if self.folder is not None:
            return Packs.load, (self.folder,)
        return Packs, (self.rows, self.starts, self.capacity, self.tokens)


def pack(lengths: npt.NDArray[Any], capacity: int) -> Packs:
    """Put samples into packs of up to `capacity` tokens, best-fit decreasing over all of them.

    `lengths` is [samples], in tokens. The same lengths give the same packs; of samples of one
    length the earlier row is placed first. Packs come in the order of their first rows.

    Raises:
        ValueError: a length is below 1 or over the capacity, or there is no sample.
    """
    if lengths.ndim != 1 or len(lengths) == 0 or lengths.dtype.kind not in "iu":
        raise ValueError("lengths must be a row of at least one whole number")
    if lengths.min() < 1 or lengths.max() > capacity:
        wrong = int(np.argmax((lengths < 1) | (lengths > capacity)))
        raise ValueError(
            f"sample {wrong} has {lengths[wrong]} tokens, a pack holds 1 to {capacity}"
        )
    # numpy sorts 16-bit keys by counting, which is several times faster
    short = np.uint16 if capacity <= np.iinfo(np.uint16).max else np.int64
    longest_first = np.argsort((capacity - lengths).astype(short), kind="stable")
    pack_of = np.empty(len(lengths), dtype=np.int64)
    pack_of[longest_first], packs = _place(np.bincount(lengths), capacity)
    rows, starts = _group(pack_of, packs)
    return Packs(rows, starts, capacity, int(lengths.sum(dtype=np.int64)))


def _place(counts: Whole, capacity: int) -> tuple[Whole, int]:
    """Pack of every sample, samples in decreasing order of length; and the number of packs."""
    pack_of = np.empty(int(counts.sum()), dtype=np.int64)
    open_packs = _OpenPacks(capacity)
    placed = 0
    for length in np.flatnonzero(counts)[::-1].tolist():
        left = int(counts[length])
        while left:
            packs, room = open_packs.take(length, left)
            # a pack stays the fullest that fits while it takes samples of this length
            each = room // length
            full = min(left // each, len(packs))
            end = placed + full * each
            pack_of[placed:end] = np.repeat(packs[:full], each)
            open_packs.put(packs[:full], room - each * length)
            left -= full * each
            placed = end
            if left and full < len(packs):
                pack_of[placed : placed + left] = packs[full]
                open_packs.put(packs[full : full + 1], room - left * length)
                placed, left, full = placed + left, 0, full + 1
            open_packs.put(packs[full:], room)
    return pack_of, open_packs.made


class _OpenPacks:
    """Packs by the room that is left in them, in tokens."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._by_room: list[list[Whole]] = [[] for _ in range(capacity + 1)]
        self._rooms = 0
        """Bit r is set when some pack has room r: one integer answers which is the smallest."""
        self.made = 0

    def take(self, length: int, samples: int) -> tuple[Whole, int]:
        """All packs with the smallest room from `length` on; new ones when there is none."""
        fitting = self._rooms >> length
        if not fitting:
            wanted = -(-samples // (self._capacity // length))
            self.made += wanted
            return np.arange(self.made - wanted, self.made, dtype=np.int64), self._capacity
        room = length + (fitting & -fitting).bit_length() - 1
        found = self._by_room[room]
        self._by_room[room] = []
        self._rooms ^= 1 << room
        return found[0] if len(found) == 1 else np.concatenate(found), room

    def put(self, packs: Whole, room: int) -> None:
        """A pack without room is closed."""
        if len(packs) and room:
            self._by_room[room].append(packs)
            self._rooms |= 1 << room


def _group(pack_of: Whole, packs: int) -> tuple[Whole, Whole]:
    """Row numbers pack by pack, packs in the order of their first rows; and where each begins."""
    samples = len(pack_of)
    # backwards: the last write to a place is the first row's
    first = np.empty(packs, dtype=np.int64)
    first[pack_of[::-1]] = np.arange(samples - 1, -1, -1)
    rank = np.empty(packs, dtype=np.int64)
    rank[np.argsort(first)] = np.arange(packs)
    # pack and row as one number: sorting it is faster than sorting rows by pack
    keys = rank[pack_of]
    sizes = np.bincount(keys, minlength=packs)
    keys *= samples
    keys += np.arange(samples)
    keys.sort()
    keys %= samples
    starts = np.zeros(packs + 1, dtype=np.int64)
    np.cumsum(sizes, out=starts[1:])
    return keys, starts


class PackedDataset(torch.utils.data.Dataset):  # type: ignore[misc]
    """Packs as the items of a data set: `len`, `[i]`, and picklable, as a data loader needs it.

    Item i is `input_ids` and `labels`, each [tokens], `segments`, the length of each sample in it,
    `length`, their sum, and `samples`, their numbers. The first label of each sample is -100:
    nothing before it belongs to it, so nothing can predict it.
    """

    def __init__(self, samples: Any, packs: Packs) -> None:
        """`samples`: a `datasets.Dataset` with columns `input_ids` and `labels`.

        Raises:
            ValueError: there are other samples than those that were packed.
        """
        if len(samples) != len(packs.rows):
            raise ValueError(f"packs of {len(packs.rows):,} samples for a set of {len(samples):,}")
        # a selection or a shuffled order is a level in between, which a table does not know
        self.samples = samples.flatten_indices() if samples._indices is not None else samples  # noqa: SLF001 - no public way to ask
        self.packs = packs

    def __len__(self) -> int:
        return len(self.packs)

    def __getitem__(self, index: int) -> dict[str, Any]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"pack {index} of {len(self)}")
        rows = self.packs[index % len(self)]
        ids = [self._input_ids[row] for row in rows.tolist()]
        labels = np.concatenate([self._labels[row] for row in rows.tolist()])
        segments = np.array([len(one) for one in ids], dtype=np.int64)
        labels[np.cumsum(segments) - segments] = IGNORED
        return {
            "input_ids": np.concatenate(ids),
            "labels": labels,
            "segments": segments.tolist(),
            "length": len(labels),
            "samples": rows.tolist(),
        }

    @cached_property
    def _input_ids(self) -> _Lists:
        return _Lists(self.samples.data.column("input_ids"))

    @cached_property
    def _labels(self) -> _Lists:
        return _Lists(self.samples.data.column("labels"))

    def __getstate__(self) -> dict[str, Any]:
        # views of mapped memory would be copied; the data set maps its files again by itself
        return {"samples": self.samples, "packs": self.packs}


class _Lists:
    """A column of token lists, read without copying: [row] is a view of the mapped file."""

    def __init__(self, column: Any) -> None:
        self._chunks = [
            (chunk.offsets.to_numpy(zero_copy_only=True), chunk.values.to_numpy())
            for chunk in column.chunks
        ]
        self._starts = list(accumulate((len(chunk) for chunk in column.chunks), initial=0))

    def __getitem__(self, row: int) -> npt.NDArray[np.int32]:
        chunk = bisect_right(self._starts, row) - 1
        offsets, values = self._chunks[chunk]
        at = row - self._starts[chunk]
        found: npt.NDArray[np.int32] = values[offsets[at] : offsets[at + 1]]
        return found
