"""What safetensors files say of their tensors, read without torch and without the weights.

In: a folder, or a file. Out: name, type and shape of each tensor, and sums over them. Only the
heads of the files are read, so a model of any size takes milliseconds.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

BYTES: dict[str, int] = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2, "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1,
}  # fmt: skip
"""Bytes of one element by the name of its type in the file."""

DTYPES: dict[str, str] = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}
"""Names of formats in settings -> in files."""

_FLOATS = frozenset(("F64", "F32", "F16", "BF16"))
_LONGEST = 100_000_000
"""Bytes of a head that the format allows."""


class BadHeader(ValueError):
    """A file is no safetensors file, or is cut short."""


@dataclass(frozen=True)
class Header:
    """One tensor."""

    dtype: str
    shape: tuple[int, ...]

    @property
    def elements(self) -> int:
        return math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.elements * BYTES.get(self.dtype, 4)


def read_headers(file: Path) -> dict[str, Header]:
    """Tensors of one file.

    Raises:
        BadHeader: it is no safetensors file, or shorter than it says.
        OSError: it cannot be read.
    """
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= _LONGEST:
            raise BadHeader(f"{file} is no safetensors file")
        text = stream.read(length)
    try:
        told = json.loads(text)
        told.pop("__metadata__", None)
        ends = [int(entry["data_offsets"][1]) for entry in told.values()]
        found = {
            name: Header(str(entry["dtype"]), tuple(map(int, entry["shape"])))
            for name, entry in told.items()
        }
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise BadHeader(f"{file} is no safetensors file: {error}") from error
    if file.stat().st_size < 8 + length + max(ends, default=0):
        raise BadHeader(f"{file} is cut short")
    return found


def model_headers(folder: Path) -> dict[str, Header]:
    """Tensors of a model folder: of `model.safetensors`, or of the shards of its index.

    Raises:
        FileNotFoundError: there are no safetensors, or a shard is missing.
        BadHeader, OSError: see `read_headers`.
    """
    single, index = folder / "model.safetensors", folder / "model.safetensors.index.json"
    if single.is_file():
        return read_headers(single)
    if not index.is_file():
        raise FileNotFoundError(f"{folder} holds no safetensors weights")
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadHeader(f"{index} is no index of weights: {error}") from error
    found: dict[str, Header] = {}
    for name in sorted(names):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder} lacks {name}, which its index names")
        found |= read_headers(folder / name)
    return found


def size_in(headers: dict[str, Header], dtype: str | None) -> int:
    """Bytes of the tensors with those of floating point in another format; None keeps theirs."""
    if dtype is None:
        return sum(one.bytes for one in headers.values())
    width = BYTES[DTYPES[dtype]]
    return sum(
        one.elements * width if one.dtype in _FLOATS else one.bytes for one in headers.values()
    )


def main_dtype(headers: dict[str, Header]) -> str | None:
    """The format that most weights are in, as settings name it; None for another."""
    counts: Counter[str] = Counter()
    for one in headers.values():
        counts[one.dtype] += one.elements
    if not counts:
        return None
    names = {short: name for name, short in DTYPES.items()}
    return names.get(counts.most_common(1)[0][0])
