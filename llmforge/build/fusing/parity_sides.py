"""The two models that a proof compares, loaded from folders.

In: the base's folder, the adapter's, the fused one. Out: `Side`s for `parity.prove`, and that
called with them. Both are run in one format, whatever they are stored in.

Nothing is decided here (`parity.py`).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoTokenizer, GenerationConfig

from llmforge.build.fusing.deltas import rows_of
from llmforge.build.fusing.files import GENERATION, TOKENIZER_CONFIG
from llmforge.build.fusing.parity import Bounds, Proof, Side, prove
from llmforge.build.fusing.parity_look import Probe
from llmforge.build.load import load_weights


def prove_fused(
    base: Path,
    adapter: Path,
    fused: Path,
    probes: Sequence[Probe],
    bounds: Bounds,
    dtype: str,
    compute: str = "float32",
    device: str = "cpu",
    scratch: Path | None = None,
) -> Proof:
    """Prove that the model in `fused` is the one in `base` with the adapter in `adapter`.

    Args:
        dtype: format that the fused weights are stored in.
        compute: format that both are run in. `float32` shows the rounding of the merge alone, and
            takes 4 bytes a parameter; a rounded format adds its own noise, alike on both sides.
        scratch: where logits are kept meanwhile; None is the system's place for such files.
    """
    with tempfile.TemporaryDirectory(prefix="parity-", dir=scratch) as folder:
        return prove(
            lambda: beside(base, adapter, compute, device, dtype),
            lambda: alone(fused, compute, device, dtype),
            probes, bounds, Path(folder),
        )  # fmt: skip


def beside(base: Path, adapter: Path, compute: str, device: str, dtype: str) -> Side:
    """The base with the adapter beside it, not merged."""
    model = load_weights(base, compute)
    rows = rows_of(adapter, model)
    if rows not in (None, model.get_input_embeddings().num_embeddings):
        model.resize_token_embeddings(rows, mean_resizing=False)
    with_adapter = PeftModel.from_pretrained(model, str(adapter)).eval().to(device)
    tokenizer = adapter if (adapter / TOKENIZER_CONFIG).is_file() else base
    generation = adapter if (adapter / GENERATION).is_file() else base
    return Side(with_adapter, _tokenizer(tokenizer), _generation(generation), dtype)


def alone(folder: Path, compute: str, device: str, dtype: str) -> Side:
    """A model in a folder of its own."""
    model = load_weights(folder, compute).to(device)
    return Side(model, _tokenizer(folder), _generation(folder), dtype)


def _tokenizer(folder: Path) -> Any:
    return AutoTokenizer.from_pretrained(
        str(folder), local_files_only=True, trust_remote_code=False
    )


def _generation(folder: Path) -> Any:
    if not (folder / GENERATION).is_file():
        return None
    return GenerationConfig.from_pretrained(str(folder))
