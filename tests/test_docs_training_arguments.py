"""`docs/training-arguments.md`: its table is that of the code.

`LLMFORGE_UPDATE_DOCS=1 pytest tests/test_docs_training_arguments.py` writes it anew.
"""

from __future__ import annotations

import os
from pathlib import Path

from llmforge.schema.training_arguments import ARGUMENTS, Closed, Open, Owned

PAGE = Path(__file__).parents[1] / "docs" / "training-arguments.md"
HEAD = "| argument | whose it is | |\n|---|---|---|\n"


def row(name: str, entry: Owned | Open | Closed) -> str:
    if isinstance(entry, Owned):
        return f"| `{name}` | `{entry.key}` | |\n"
    if isinstance(entry, Open):
        return f"| `{name}` | `trainer.extra.{name}` | changes {entry.effect.value} |\n"
    return f"| `{name}` | closed | {entry.reason} |\n"


def test_the_table_is_the_one_of_the_code() -> None:
    text = PAGE.read_text(encoding="utf-8")
    before, _, after = text.partition(HEAD)
    lines = after.splitlines(keepends=True)
    rest = "".join(lines[next((n for n, s in enumerate(lines) if s[0] != "|"), len(lines)) :])
    now = before + HEAD + "".join(row(n, ARGUMENTS[n]) for n in sorted(ARGUMENTS)) + rest
    if os.environ.get("LLMFORGE_UPDATE_DOCS"):
        PAGE.write_text(now, encoding="utf-8")

    assert PAGE.read_text(encoding="utf-8") == now
