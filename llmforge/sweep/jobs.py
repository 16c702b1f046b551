"""What a job of a sweep is told, and how: overrides that pass through any launcher.

In: a run folder, the trial's place among those that run at once. Out: overrides; and, in the job's
process, what they say. Launchers carry overrides and nothing else; these are no settings of a run,
and our own path never composes them.
"""

from __future__ import annotations

import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

JOB = "sweep_trial"
"""Key of the override that tells a job its run folder."""

PLACE = "sweep_place"
"""Key of the override that tells a job its place among those that run at once."""

_AT_WORK = threading.Lock()
"""Held while this process runs a trial."""

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


@contextmanager
def in_company(places: int) -> Iterator[None]:
    """Run a job in a process that a launcher keeps for several.

    Such a process may outlive a driver that is killed: it finishes the trial at hand, which the
    next driver waits for, and ends, since nobody is left to give it another one.
    """
    if places < 2:
        yield  # the driver's own process, or one for this job alone
        return
    _watch_parent(os.getppid())
    with _AT_WORK:
        yield


@cache
def _watch_parent(parent: int) -> threading.Thread:
    """One thread in each process; `parent` is what started it."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        with _AT_WORK:
            os._exit(0)  # a pool's process waits for ever otherwise, deaf to anything gentler

    thread = threading.Thread(target=watch, name="watch-launcher", daemon=True)
    thread.start()
    return thread


def _named(overrides: Sequence[str], key: str) -> Any:
    from llmforge.compose.sweeps import value_of

    named = [text for text in overrides if text.startswith(f"+{key}=")]
    return value_of(named[0]) if named else None
