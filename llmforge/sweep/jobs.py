"""What a job of a sweep is told, and how: overrides that pass through any launcher.

In: a run folder, the trial's place among those that run at once. Out: overrides; and, in the job's
process, what they say. Launchers carry overrides and nothing else; these are no settings of a run,
and our own path never composes them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

JOB = "sweep_trial"
"""Key of the override that tells a job its run folder."""

PLACE = "sweep_place"
"""Key of the override that tells a job its place among those that run at once."""

Launch = Callable[[list[list[str]], int], Sequence[Any]]
"""Overrides of each job and the number of the first one -> when all of them are done."""


def job_override(folder: Path) -> str:
    """The override that tells a job its run folder, whatever characters the path has."""
    text = folder.as_posix()
    # in the grammar a backslash counts only before a quote, or before the end of the text
    text = re.sub(r"(\\*)(?='|$)", r"\1\1", text).replace("'", "\\'")
    return f"+{JOB}='{text.replace('${', chr(92) + '${')}'"


def trial_folder(overrides: Sequence[str]) -> Path | None:
    """The run folder that a job's overrides name; None for a job that is no trial."""
    found = _named(overrides, JOB)
    return None if found is None else Path(str(found))


def place_override(place: int, places: int) -> str:
    """The override that tells a job that it is one of several on its machine."""
    return f"+{PLACE}=[{place},{places}]"


def place_of(overrides: Sequence[str]) -> tuple[int, int]:
    """Place and number of places that a job's overrides name; `(0, 1)` for one without company."""
    found = _named(overrides, PLACE)
    return (0, 1) if found is None else (int(found[0]), int(found[1]))


def _named(overrides: Sequence[str], key: str) -> Any:
    from llmforge.compose.sweeps import value_of

    named = [text for text in overrides if text.startswith(f"+{key}=")]
    return value_of(named[0]) if named else None
