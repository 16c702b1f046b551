"""Calibration samples: what a model reads while its layers are rounded.

In: prepared samples, the run's own or others, or texts. Out: token ids. The run's samples are taken
as they were prepared for training, token for token; nothing that belongs to the run is written.
Which are taken is decided by the seed.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmforge.build.quantizing.work import NotQuantized
from llmforge.schema.quantize import CalibrationSpec

_KEY = "quantize.calibration"
_SHORTEST = 2
"""Tokens of a sample: one alone has no activations that depend on another."""


def calibration(
    spec: CalibrationSpec, rows: Any, seed: int, tokenizer: Any, source: Path, trained: bool
) -> list[list[int]]:
    """Token ids of the chosen samples.

    Args:
        spec: what is asked for.
        rows: prepared samples to choose from, with a column `input_ids`; None for texts.
        seed: chooses.
        tokenizer: of the model, for `source=texts`.
        source: folder of the model, whose config tells the context.
        trained: was the model trained by llmforge?

    Raises:
        NotQuantized: LF965 for no sample at all, LF966 for fewer tokens than one block.
    """
    length = min(spec.length, context_of(source) or spec.length)
    found: Iterable[Sequence[int]]
    if rows is None:
        found = [tokenizer(text)["input_ids"] for text in spec.texts]
        count = len(spec.texts)
    else:
        # RandomState: its stream is frozen across versions of numpy (NEP 19)
        order = np.random.RandomState(seed % 2**32).permutation(len(rows))
        found = (rows[int(number)]["input_ids"] for number in order)
        count = len(rows)
    samples: list[list[int]] = []
    for ids in found:
        if len(samples) == spec.samples:
            break
        if len(ids) >= _SHORTEST:
            samples.append(list(ids[:length]))
    return checked(samples, count, length, spec, trained)


def checked(
    samples: list[list[int]], rows: int, length: int, spec: CalibrationSpec, trained: bool
) -> list[list[int]]:
    """The samples, where there are enough of them.

    Args:
        rows: how many there are to choose from.
        length: of one block, in tokens.
        spec: what was asked for.
        trained: was the model trained by llmforge, so that it has rows of its own?

    Raises:
        NotQuantized: LF965, LF966.
    """
    tokens = sum(map(len, samples))
    if samples and tokens >= length:
        return samples
    hint = _remedy(samples, rows, length, spec, trained)
    if not samples:
        message = f"no calibration sample: {rows:,} rows, none of {_SHORTEST} tokens or more"
        raise NotQuantized("LF965", message, f"{_KEY}.source", hint)
    raise NotQuantized(
        "LF966",
        f"{len(samples):,} calibration samples have {tokens:,} tokens, fewer than one block of "
        f"{length:,}",
        f"{_KEY}.samples" if "samples=" in hint else f"{_KEY}.source",
        hint,
        (
            "a layer is rounded by what it sees: more and longer samples round it better",
            "`quantize=int4` and `quantize=int8` round without calibration",
        ),
    )


def _remedy(
    samples: list[list[int]], rows: int, length: int, spec: CalibrationSpec, trained: bool
) -> str:
    """More of the rows where they are enough; else the run's own; else what needs none."""
    tokens = sum(map(len, samples))
    needed = math.ceil(length * len(samples) / tokens) if tokens else rows + 1
    if len(samples) == spec.samples and needed <= rows:
        return f"{_KEY}.samples={needed}"
    return f"{_KEY}.source=run" if trained and spec.source != "run" else "quantize=int8"


def context_of(source: Path) -> int | None:
    """Longest text the model reads, by its config; None where it does not say."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for part in (config, config.get("text_config") or {}):
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
            if isinstance(part.get(name), int):
                return int(part[name])
    return None
