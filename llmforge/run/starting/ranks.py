"""What the processes of one run say when they die, and which of them was first.

In: a rank's exception; later, the run folder. Out: `failure-rank<N>.json` with the diagnostic, the
traceback, host and time; and of several such files the one that tells the cause. When one rank
dies, the others find their connection closed and die of that: those are never the cause while
another rank has more to say.
"""

from __future__ import annotations

import json
import os
import platform
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.environment import scrub
from llmforge.run.folder import RunFolder

RESTART = "LLMFORGE_RESTART"
"""How often Ray or a batch system has started all processes again; torchrun counts by itself."""

_LOST_TYPES = ("DistBackendError", "DistNetworkError", "DistStoreError", "ConnectionError")
_LOST_WORDS = (
    *("connection closed by peer", "connection reset by peer", "connection refused"),
    *("broken pipe", "nccl error", "nccl communicator", "process group", "remote process exited"),
    *("gloo", "socket timeout", "read error [", "writev"),
)
"""What a rank says that lost its neighbour."""


def world_size() -> int:
    """Processes of this run."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def restarts() -> int:
    """How often this attempt's processes were started again by their launcher."""
    names = (RESTART, "TORCHELASTIC_RESTART_COUNT")
    return sum(int(os.environ.get(name) or 0) for name in names)


def lost_neighbour(error: BaseException) -> bool:
    """Is it only that another process is gone?"""
    seen: BaseException | None = error
    while seen is not None:
        names = {cls.__name__ for cls in type(seen).__mro__}
        if names.intersection(_LOST_TYPES):
            return True
        if isinstance(seen, RuntimeError) and any(w in str(seen).lower() for w in _LOST_WORDS):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def keep_failure(
    run: RunFolder, plan: Plan, rank: int, found: Mapping[str, Any], error: BaseException
) -> None:
    """Write what a rank died of."""
    text = "".join(traceback.format_exception(error))
    told = {
        **found,
        "rank": rank,
        "host": platform.node(),
        "time": time.time(),
        "lost": lost_neighbour(error),
        "traceback": scrub(text, plan),
    }
    run.write_json(run.failure(rank).name, told)


def failures(run: RunFolder) -> list[dict[str, Any]]:
    """What ranks wrote when they died: causes before consequences, then by time, then by rank.

    Clocks of several hosts differ, so time decides only between those that are alike.
    """
    found = []
    for path in run.path.glob("failure-rank*.json"):
        told = json.loads(path.read_text(encoding="utf-8"))
        rank = int(path.stem.removeprefix("failure-rank"))
        prefix = "" if rank == 0 else f"rank {rank}: "
        found.append({**told, "rank": rank, "message": f"{prefix}{told['message']}"})
    return sorted(
        found, key=lambda told: (told.get("lost", False), told.get("time", 0.0), told["rank"])
    )


def last_words(run: RunFolder) -> str | None:
    """The traceback of the rank that failed first, with who it was; None where none was kept."""
    for told in failures(run)[:1]:
        if told.get("traceback"):
            where = f"rank {told['rank']} on {told.get('host', 'an unknown host')}"
            return f"{where} failed first:\n{told['traceback'].rstrip()}"
    return None


def killed(folder: Path, rank: int, name: str) -> None:
    """Write for a rank what it could not write itself: a signal ended it."""
    run = RunFolder(folder)
    if run.failure(rank).exists() or not folder.is_dir():
        return
    told = {
        "code": "LF804",
        "message": f"the worker was killed by {name}",
        "host": platform.node(),
        "time": time.time(),
        "lost": False,
    }
    run.write_json(run.failure(rank).name, told)
