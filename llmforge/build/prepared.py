"""What preparation hands to the build, and how files are made to last.

In: nothing. Out: `Prepared` (see `stages/prepare.py`, which makes it) and `sync`.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets


@dataclass(frozen=True)
class Prepared:
    """Samples ready to be trained on."""

    folder: Path
    tokenizer_folder: Path
    train: datasets.Dataset
    evaluation: datasets.Dataset | None
    report: dict[str, Any]
    """`train` and `evaluation` (or None): `rows`, `used`, `rejected` by reason, `truncated`,
    `tokens`, `tokens_trained`, `tokens_masked`, `longest`; and `vocabulary`, `seconds`."""
    reused: bool
    """Found whole on disk; the data files were not read."""


def sync(path: Path) -> None:
    """Flush a file or folder to the disk, so that a rename never outlives what it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
