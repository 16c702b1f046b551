"""How many training samples there are: rows, unless they are packed, split or dropped.

In: rows, the collator, and prepared samples in the cache, if there are any. Out: `Samples`. Where
the number follows only from the tokens, it is foretold from the size of the files until the data
are prepared; `llmforge train` prepares them before it settles the plan.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmforge.compiler.facts.data import DataFacts
from llmforge.schema import RunSpec
from llmforge.store import read_report

_BYTES_PER_TOKEN = 4.0
"""Of English under common vocabularies; only used to foretell."""

_BUILTIN_TOKENS = 54
"""Of a built-in conversation under its own tokenizer, on average."""


@dataclass(frozen=True)
class Samples:
    """Training samples of one epoch."""

    count: int
    exact: bool
    """Counted, or certain; else foretold."""
    what: str
    """`rows`, `samples` or `packs`."""


def count_samples(spec: RunSpec, data: DataFacts, fingerprint: str) -> Samples:
    """Samples of one epoch.

    Args:
        fingerprint: the prepare stage's; names the folder in the cache.
    """
    packed = spec.collator.packing != "none"
    what = "packs" if packed else "rows" if spec.collator.truncation != "split" else "samples"
    known = _prepared(spec, fingerprint)
    if known is not None:
        return Samples(known, True, what)
    certain = not packed and spec.collator.truncation in ("refuse", "right", "left")
    if certain and spec.data.max_untrained_rows == 0 and spec.data.max_bad_rows == 0:
        return Samples(data.train_rows, True, what)
    return Samples(_foretold(spec, data) if packed else data.train_rows, False, what)


def _prepared(spec: RunSpec, fingerprint: str) -> int | None:
    report = read_report(spec.paths.cache, fingerprint)
    if report is None:
        return None
    packing, train = report.get("packing"), report.get("train") or {}
    found = packing.get("packs") if packing else train.get("samples")
    return found if isinstance(found, int) else None


def _foretold(spec: RunSpec, data: DataFacts) -> int:
    """Packs, from the size of the files."""
    length = int(spec.collator.max_length)
    total = 0.0 if data.sources else float(min(_BUILTIN_TOKENS, length) * data.train_rows)
    for source in data.sources.values():
        rows = sum(part.rows + part.folded for part in source.train)
        size = sum(part.bytes for part in source.train)
        taken = source.share.taken
        per_row = size / max(1, rows) / _BYTES_PER_TOKEN + 1
        total += min(per_row, length) * taken
    return max(1, round(total / length))
