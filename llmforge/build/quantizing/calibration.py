"""Calibration samples: what a model reads while its layers are rounded.

In: prepared samples, the run's own or others, or texts. Out: token ids. The run's samples are taken
as they were prepared for training, token for token; nothing that belongs to the run is written.
Which are taken is decided by the seed.
"""

from __future__ import annotations

import json
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
    spec: CalibrationSpec, rows: Any, seed: int, tokenizer: Any, source: Path
) -> list[list[int]]:
    """Token ids of the chosen samples.

    Args:
        spec: what is asked for.
        rows: prepared samples to choose from, with a column `input_ids`; None for texts.
        seed: chooses.
        tokenizer: of the model, for `source=texts`.
        source: folder of the model, whose config tells the context.

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
    return checked(samples, count, length)


def checked(samples: list[list[int]], rows: int, length: int) -> list[list[int]]:
    """The samples, where there are enough of them.

    Args:
        rows: how many were looked at.
        length: of one block, in tokens.

    Raises:
        NotQuantized: LF965, LF966.
    """
    if not samples:
        raise NotQuantized(
            "LF965",
            f"no calibration sample: {rows:,} rows, none of {_SHORTEST} tokens or more",
            f"{_KEY}.source",
            "quantize.calibration.source=run",
        )
    tokens = sum(map(len, samples))
    if tokens < length:
        raise NotQuantized(
            "LF966",
            f"{len(samples):,} calibration samples have {tokens:,} tokens, fewer than one block of "
            f"{length:,}",
            f"{_KEY}.length",
            f"{_KEY}.length={tokens}",
            ("a layer is rounded by what it sees: more and longer samples round it better",),
        )
    return samples


def context_of(source: Path) -> int | None:
    """Longest text the model reads, by its config; None where it does not say."""
    config = json.loads((source / "config.json").read_text(encoding="utf-8"))
    for part in (config, config.get("text_config") or {}):
        for name in ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length"):
            if isinstance(part.get(name), int):
                return int(part[name])
    return None
