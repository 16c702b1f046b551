"""Weight files of a model folder, read one tensor at a time and written one shard at a time.

In: a folder with safetensors, single or sharded. Out: its tensors by name; and another such folder,
with its index, from tensors that come one after the other. Beside them: tokenizer and generation
files, which are copied as they are.

This module knows nothing of adapters (`merge.py`).
"""

from __future__ import annotations

import copy
import ctypes
import json
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import split_state_dict_into_shards_factory
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import GenerationConfig

from llmforge.build.model import SAFE_WEIGHTS, check_safe_weights

GENERATION = "generation_config.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
_TOKENIZER = (
    "tokenizer*.json", "tokenizer.model*", "special_tokens_map.json", "added_tokens.json",
    "vocab.*", "merges.txt", "*.spm", "*.tiktoken", "spiece.model", "sentencepiece*.model",
    "*chat_template*.jinja", "chat_template.json", "additional_chat_templates/*.jinja",
)  # fmt: skip
"""Names under which libraries keep tokenizers and chat templates."""

_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "I64": torch.int64,
    "I32": torch.int32, "I16": torch.int16, "I8": torch.int8, "U8": torch.uint8,
    "BOOL": torch.bool,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """What a file says of a tensor."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


class WeightFiles:
    """The safetensors of a folder."""

    def __init__(self, folder: Path) -> None:
        """Reads the headers only.

        Raises:
            FileNotFoundError: no safetensors, or a shard of them is missing.
            ValueError: a tensor is of a type that is not known here.
        """
        check_safe_weights(folder)
        single, index = (folder / name for name in SAFE_WEIGHTS)
        if single.is_file():
            files = [single]
        else:
            named: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
            files = sorted({folder / name for name in named.values()})
        self.stored: dict[str, Stored] = {}
        for file in files:
            if not file.is_file():
                raise FileNotFoundError(f"{folder} lacks {file.name}, which its index names")
            self.stored |= _header(file)

    def get(self, name: str) -> torch.Tensor:
        """A copy of a tensor in memory of its own; nothing else of the file stays there."""
        with safe_open(str(self.stored[name].file), framework="pt") as opened:
            found: torch.Tensor = opened.get_tensor(name)
            return found.clone()


def _header(file: Path) -> dict[str, Stored]:
    found = {}
    with safe_open(str(file), framework="pt") as opened:
        for name in opened.keys():  # noqa: SIM118 - no mapping: it has no iterator
            part = opened.get_slice(name)
            kind = part.get_dtype()
            if kind not in _DTYPES:
                raise ValueError(f"{name} in {file} is of type {kind}, which cannot be merged")
            found[name] = Stored(file, tuple(part.get_shape()), _DTYPES[kind])
    return found


@dataclass(frozen=True)
class Written:
    """What was written."""

    files: tuple[str, ...]
    bytes: int


def write_shards(
    folder: Path,
    planned: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
    get: Callable[[str], torch.Tensor],
    shard_size: int | str,
) -> Written:
    """Write safetensors of at most `shard_size`, and their index where there are several.

    Args:
        folder: exists.
        planned: names in their order, with shape and format.
        get: called once for each name, in that order; one shard is held at a time.
        shard_size: bytes, or a text such as `5GB`. A larger tensor has a file of its own.

    Raises:
        ValueError: a tensor has another shape or format than planned.
    """
    split = split_state_dict_into_shards_factory(
        dict(planned),
        get_storage_size=lambda plan: torch.Size(plan[0]).numel() * plan[1].itemsize,
        filename_pattern="model{suffix}.safetensors",
        max_shard_size=shard_size,
    )
    for file, names in split.filename_to_tensors.items():
        shard = {}
        for name in names:
            tensor = get(name)
            if (tuple(tensor.shape), tensor.dtype) != planned[name]:
                raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, not as planned")
            shard[name] = tensor.contiguous()
        save_file(shard, str(folder / file), metadata={"format": "pt"})
        del shard, tensor
        return_memory()
    if split.is_sharded:
        index = {"metadata": split.metadata, "weight_map": split.tensor_to_filename}
        text = json.dumps(index, indent=2, sort_keys=True) + "\n"
        (folder / SAFE_WEIGHTS[1]).write_text(text, encoding="utf-8")
    return Written(tuple(split.filename_to_tensors), int(split.metadata["total_size"]))


def return_memory() -> None:
    """Have the C library give freed memory back to the system.

    It keeps what weights of some megabytes leave, in pieces that the next one may not fit into;
    over a large model these came to half of its size.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
    if trim is not None:
        trim(0)


def write_config(config: Any, dtype: str, untied: bool, folder: Path) -> None:
    """config.json of weights in a format; `untied` where one of two tied weights has changed."""
    made = copy.deepcopy(config)
    made.dtype, made.use_cache = dtype, True
    if untied:
        made.tie_word_embeddings = made.get_text_config().tie_word_embeddings = False
    made.save_pretrained(str(folder))


def copy_companions(adapter: Path, base: Path, target: Path) -> None:
    """Tokenizer, chat template and generation config, byte by byte: the adapter's where it has
    them, else the base's."""
    tokenizer = adapter if (adapter / TOKENIZER_CONFIG).is_file() else base
    _copy(tokenizer, _files(tokenizer, _TOKENIZER), target)
    for place in (adapter, base):
        if (place / GENERATION).is_file():
            # read first: a broken one must not be handed on
            GenerationConfig.from_pretrained(str(place))
            _copy(place, [place / GENERATION], target)
            return


def _files(folder: Path, patterns: Iterable[str]) -> list[Path]:
    return sorted({path for pattern in patterns for path in folder.glob(pattern)})


def _copy(source: Path, files: Iterable[Path], target: Path) -> None:
    for path in files:
        to = target / path.relative_to(source)
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
