"""What a job of a sweep is told, and how: overrides that pass through any launcher.

In: a run folder, the trial's place among those that run at once, the driver. Out: overrides; and,
in the job's process, what they say. Launchers carry overrides and nothing else; these are no
settings of a run, and our own path never composes them.
"""

from __future__ import annotations

import os
import platform
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

JOB = "sweep_trial"
"""Key of the override that tells a job its run folder."""

PLACE = "sweep_place"
"""Key of the override that tells a job its place among those that run at once on this machine, and
the process that drives them."""

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


@dataclass(frozen=True)
class Place:
    """Where a job runs among those of its sweep."""

    number: int = 0
    """From 0."""
    places: int = 1
    """Trials that run on this machine at once; 1 for one without company."""
    driver: int | None = None
    """Process that drives them; None where it is one of another machine."""


def place_override(place: int, places: int) -> str:
    """The override by which this process, the driver, tells a job that it is one of several."""
    return f"+{PLACE}=[{place},{places},{os.getpid()},'{platform.node()}']"


def place_of(overrides: Sequence[str]) -> Place:
    """What a job's overrides say of its place."""
    found = _named(overrides, PLACE)
    if found is None:
        return Place()
    number, places, driver, node = found
    return Place(int(number), int(places), int(driver) if node == platform.node() else None)


@contextmanager
def in_company(place: Place) -> Iterator[None]:
    """Run a job in a process that a launcher keeps for several.

    Such a process may outlive a driver that is killed: it finishes the trial at hand, which the
    next driver waits for, and ends, since nobody is left to give it another one.
    """
    if place.places < 2 or place.driver == os.getpid():
        yield  # the driver's own process, or one for this job alone
        return
    with _AT_WORK:
        _watch(os.getppid(), place.driver)
        yield


@cache
def _watch(parent: int, driver: int | None) -> threading.Thread:
    """One thread for each driver that a process works for; `parent` is what started the process.

    The parent alone would not do: a driver may be gone before the first job has begun, and then it
    is no parent any more. The driver's number alone would not either: it stands for a process that
    has ended until somebody has asked how it ended.
    """

    def watch() -> None:
        while os.getppid() == parent and (driver is None or _is_there(driver)):
            time.sleep(1.0)
        with _AT_WORK:
            os._exit(0)  # a pool's process waits for ever otherwise, deaf to anything gentler

    thread = threading.Thread(target=watch, name="watch-launcher", daemon=True)
    thread.start()
    return thread


def _is_there(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _named(overrides: Sequence[str], key: str) -> Any:
    from llmforge.compose.sweeps import value_of

    named = [text for text in overrides if text.startswith(f"+{key}=")]
    return value_of(named[0]) if named else None
