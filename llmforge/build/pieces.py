"""The pieces of a sharded state read back, without running what a pickle may hold.

In: a folder that `torch.distributed.checkpoint` wrote, the state to fill. Out: the state, filled in
place. PyTorch keeps the list of pieces, and each value that is no tensor, as pickles and would run
whatever stands in them; a run folder may come from somebody else. So they are read beforehand by
readers that know the classes of such a list, and plain values, and nothing else.

Tensors are read as plain ones by PyTorch itself. What is written is `sharding.py`'s.
"""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed import checkpoint as pieces
from torch.distributed.checkpoint.planner import ReadItem

_LIST = "torch.distributed.checkpoint.metadata"
_KNOWN = frozenset(
    {
        *((_LIST, name) for name in ("Metadata", "MetadataIndex", "StorageMeta")),
        *((_LIST, name) for name in ("TensorStorageMetadata", "BytesStorageMetadata")),
        *((_LIST, name) for name in ("TensorProperties", "ChunkStorageMetadata")),
        (_LIST, "_MEM_FORMAT_ENCODING"),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        *(("torch", name) for name, value in vars(torch).items() if isinstance(value, torch.dtype)),
        *(("pathlib", name) for name in ("PosixPath", "WindowsPath", "PurePosixPath")),
        ("collections", "OrderedDict"),
    }
)
"""Module and name of all that a list of pieces is made of."""


class _ListReader(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _KNOWN:
            raise pickle.UnpicklingError(
                f"the list of pieces holds {module}.{name}, which no such list has"
            )
        return super().find_class(module, name)


class _PlainValues(pieces.DefaultLoadPlanner):  # type: ignore[misc]
    """Takes values that are no tensors only if they are plain."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        torch.load(value, weights_only=True)
        value.seek(0)
        super().load_bytes(read_item, value)


def load_pieces(state: dict[str, Any], folder: Path) -> None:
    """Fill a state from a folder; every process must call this.

    Raises:
        pickle.UnpicklingError: the folder holds something else than pieces of a state.
    """
    for file in sorted(folder.glob("*.metadata")):  # one for all, or one for each process
        with file.open("rb") as stream:
            _ListReader(stream).load()
    pieces.load(state, checkpoint_id=folder, planner=_PlainValues())
