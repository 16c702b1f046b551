"""What preparation hands to the build, and how files are made to last.

In: nothing. Out: `Prepared` (see `stages/prepare.py`, which makes it), and `sync`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.plan import Plan

if TYPE_CHECKING:
    import datasets

STREAMED = "receipt.jsonl"
"""Rows that were left out while training, beside the prepared folder."""


@dataclass(frozen=True)
class Prepared:
    """Samples ready to be trained on."""

    folder: Path
    tokenizer_folder: Path
    plan: Plan
    train: datasets.Dataset
    """Samples; of streamed data only the first, for reports."""
    evaluation: datasets.Dataset | None
    packed: bool
    """Samples share rows; which ones is kept in the folder, see `build/packing.py`."""
    report: dict[str, Any]
    """`train` and `evaluation` (or None): `rows`, `used`, `rejected` by reason, `samples`,
    `truncated`, `tokens`, `tokens_trained`, `tokens_masked`, `tokens_cut`, `ends_trained`,
    `longest`, `lengths` (a histogram), `duplicates`, `token_digest`, the same by name in `sets`;
    `evaluation` has `overlap` too. `packing` (or None): `packs`, `capacity`, `efficiency`,
    `fewest_possible`. And `vocabulary`, `seconds`."""
    reused: bool
    """Found whole on disk; the data files were not read."""

    def training_set(self) -> Any:
        """What an epoch goes through: samples, packs of them, or a stream that makes them."""
        if self.plan.spec.data.streaming:
            from llmforge.build.stream import StreamedDataset

            receipt = self.folder.with_name(f"{self.folder.name}.{STREAMED}")
            return StreamedDataset(self.plan, self.tokenizer_folder, receipt)
        if not self.packed:
            return self.train
        from llmforge.build.packing import PackedDataset, Packs

        return PackedDataset(self.train, Packs.load(self.folder))


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename never outlives what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
