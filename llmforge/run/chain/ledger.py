"""What came of each stage: `chain.json` in the run folder.

In: the links of a chain, and what became of each. Out: a file that is rewritten whole after every
stage, so that a chain that was killed can be told, and recorded, from it. Whether a stage is done
is never read from here, but from what the stage left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from llmforge.run.chain.links import Link
from llmforge.run.folder import RunFolder
from llmforge.run.status import timestamp

NAME = "chain.json"

State = Literal["pending", "running", "done", "found", "left out", "failed", "interrupted"]


@dataclass(frozen=True)
class Entry:
    """One stage."""

    name: str
    stage: str
    run_id: str
    folder: str
    """Of the run."""
    state: State = "pending"
    """`found` was finished before."""
    why: str = ""
    """Why it was left out, or failed; else nothing, or where its figures come from."""
    seconds: float | None = None
    began: str = ""
    ended: str = ""
    """ISO 8601, UTC; empty where nothing was started."""
    fingerprint: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    """The main ones, by names for people."""
    place: str = ""
    """Where the result lies."""
    record: str = ""
    """JSON file with everything about it, if there is one."""


class Ledger:
    """`chain.json` of one run folder."""

    def __init__(self, run: RunFolder, links: Sequence[Link]) -> None:
        self.run = run
        self.entries = [
            Entry(
                link.name,
                link.stage,
                link.plan.run_id,
                str(RunFolder(link.plan.run_folder).path),
                "left out" if link.left_out else "pending",
                link.left_out or "",
                fingerprint=link.plan.stages.get(link.stage, ""),
            )
            for link in links
        ]
        self.status = "running"

    def set(self, number: int, **changes: Any) -> Entry:
        """Change an entry and keep it."""
        self.entries[number] = replace(self.entries[number], **changes)
        self.keep()
        return self.entries[number]

    def found_training_of(self, link: Link) -> bool:
        """Was the run of a link trained before this chain began?"""
        known = {(entry.stage, entry.run_id): entry.state for entry in self.entries}
        return known.get(("train", link.plan.run_id)) in ("found", "left out")

    def end(self, status: str) -> None:
        """`finished`, `failed` or `interrupted`."""
        self.status = status
        self.keep()

    def keep(self) -> None:
        """Write the file."""
        self.run.write_json(
            NAME,
            {
                "run_id": self.run.run_id,
                "status": self.status,
                "updated": timestamp(),
                "stages": [asdict(entry) for entry in self.entries],
            },
        )
