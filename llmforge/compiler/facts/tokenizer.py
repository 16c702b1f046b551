"""Facts of a tokenizer that is not the model's own: its size, and tokens the model never learned.

In: a folder with tokenizer.json, and a model section. Out: `TokenizerFacts`, or None where the
folder has no tokenizer.json that can be read (then the build finds out). Only files are read, and
the hub's local cache; no tokenizer is built.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.schema.model import FolderModel, HubModel, ModelSpec

_FILE = "tokenizer.json"


@dataclass(frozen=True)
class TokenizerFacts:
    """What a tokenizer.json says."""

    rows: int
    """Embedding rows that its tokens need: the highest number and one."""
    new: tuple[str, ...] | None
    """Tokens that the model's own tokenizer lacks or numbers otherwise; None where the model's own
    is not on this machine."""


def look_at_tokenizer(source: str, model: ModelSpec) -> TokenizerFacts | None:
    """Facts of `tokenizer.source`.

    Args:
        source: `train`, `model`, or a folder; the first two have none.
        model: whose own tokenizer is compared.
    """
    if source in ("train", "model", "auto"):
        return None
    found = _tokens(Path(source) / _FILE)
    if not found:
        return None
    own = _own(model)
    known = _tokens(own) if own is not None else {}
    new = tuple(sorted(t for t, number in found.items() if known.get(t) != number))
    return TokenizerFacts(max(found.values()) + 1, new if known else None)


def _own(model: ModelSpec) -> Path | None:
    """The model's own tokenizer.json, where it is on this machine."""
    if isinstance(model, FolderModel):
        return Path(model.path) / _FILE
    if isinstance(model, HubModel):
        from huggingface_hub import try_to_load_from_cache

        path = try_to_load_from_cache(model.id, _FILE, revision=model.revision)
        return Path(path) if isinstance(path, str) else None
    return None


def _tokens(file: Path) -> dict[str, int]:
    """Token -> number; empty where there is no such file or it is none."""
    try:
        read = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}  # that a tokenizer is missing or broken is told by those who need it
    model = read.get("model") if isinstance(read, dict) else None
    vocabulary: Any = model.get("vocab") if isinstance(model, dict) else None
    if isinstance(vocabulary, list):  # Unigram: pairs of a piece and its weight, in their order
        pieces = [pair[0] for pair in vocabulary if isinstance(pair, list) and pair]
        vocabulary = {piece: number for number, piece in enumerate(pieces)}
    if not isinstance(vocabulary, dict):
        return {}
    added = read.get("added_tokens")
    for token in added if isinstance(added, list) else ():
        if isinstance(token, dict) and "content" in token:
            vocabulary[token["content"]] = token.get("id")
    return {t: n for t, n in vocabulary.items() if isinstance(t, str) and type(n) is int}
