"""Where prepared samples lie, and what is known of them without opening them.

In: a cache folder and a prepare fingerprint. Out: the folder, its report. Nothing here reads or
writes samples: `stages/prepare.py` does.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"
"""Fingerprint and digests of every file; written last, so a folder without one is not whole."""
RECEIPT = "receipt.jsonl"
"""One line for every row that was left out or cut."""
REPORT = "report.json"
"""Counts of rows and tokens."""


def prepared_folder(cache: str | Path, fingerprint: str) -> Path:
    """Where the samples of a prepare fingerprint lie, or will."""
    return Path(cache) / "prepared" / fingerprint[:16]


def read_report(cache: str | Path, fingerprint: str) -> dict[str, Any] | None:
    """The report of samples that were prepared before; None if there are none."""
    folder = prepared_folder(cache, fingerprint)
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        report = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(manifest, dict) and manifest.get("fingerprint") == fingerprint
    return report if known and isinstance(report, dict) else None
