"""The label in a folder that llmforge made: what it is, also when it has moved.

In: the order it was made by, the plan, the figures. Out: `llmforge.json` in the folder: which run
and which step it is of, by which settings it was made, the proof or the measurements, and the
digest of every other file; the plan as others may see it (`publishing.py`). Reading it needs no
run folder.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmforge.plan import Plan, PlanUnreadable
from llmforge.run.outcome import file_digest, file_digests
from llmforge.run.publishing import Publisher
from llmforge.run.status import timestamp

if TYPE_CHECKING:
    from llmforge.run.making.order import Order

LABEL = "llmforge.json"
LAYOUT = 1
"""Version of the label's layout."""


def write_label(
    folder: Path, plan: Plan, made: Order, run_id: str, figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the label, last of all files.

    Args:
        folder: whole but for the label.
        plan: the settings it was made by.
        made: the order.
        run_id: whose model it is made of.
        figures: JSON-able.
    """
    public = Publisher(plan)
    found = {
        "layout": LAYOUT,
        "llmforge": plan.llmforge,
        "stage": made.stage,
        "run_id": run_id,
        "label": public.text(made.label),
        "step": made.step,
        "source_digest": made.source_digest,
        **({"base": public.value(made.base_label)} if made.base_label else {}),
        **({"base_digest": made.base_digest} if made.base_digest else {}),
        "fingerprint": made.fingerprint,
        "settings": public.value(plan.settings[made.stage]),
        "time": timestamp(),
        **public.value(dict(figures)),
        "files": {name: entry for name, entry in file_digests(folder).items() if name != LABEL},
        "plan": public.plan(),
    }
    text = json.dumps(found, indent=2, ensure_ascii=False, default=str) + "\n"
    (folder / LABEL).write_text(text, encoding="utf-8")
    return found


def read_label(folder: Path) -> dict[str, Any] | None:
    """The label of a folder; None where there is none that can be read."""
    try:
        found = json.loads((folder / LABEL).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) and _is_whole(found) else None


def _is_whole(found: Mapping[str, Any]) -> bool:
    """Is it a label, and not some other tool's `llmforge.json`, or one that was cut?"""
    if found.get("layout") != LAYOUT or not {"stage", "run_id", "files"} <= found.keys():
        return False
    files = found["files"]
    entries = files.values() if isinstance(files, dict) else [None]
    return all(isinstance(one, dict) and {"bytes", "sha256"} <= one.keys() for one in entries)


def labelled_plan(label: Mapping[str, Any]) -> Plan | None:
    """The plan of a label, typed; None where it is of another version."""
    try:
        plan = Plan.from_dict(label["plan"])
        plan.spec  # noqa: B018 - typed here, so that a plan of another version is left out now
    except (KeyError, PlanUnreadable):
        return None
    return plan


def fault_of(
    folder: Path, files: Mapping[str, Mapping[str, Any]], thorough: bool = False
) -> str | None:
    """What of a folder's recorded files is missing, cut short or another one; None for nothing.

    Args:
        files: name -> `bytes` and `sha256`, as a label or a record has them.
        thorough: read every byte and compare digests, too; otherwise sizes only.
    """
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != int(entry["bytes"]):
            return f"{name} has {path.stat().st_size:,} bytes, not {int(entry['bytes']):,}"
        if thorough and file_digest(path) != entry["sha256"]:
            return f"{name} has changed"
    return None
