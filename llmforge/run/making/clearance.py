"""Before something is made of a model: is there room on the disk, in memory, and at its place?

In: bytes that are needed, and the folder that is to be made. Out: nothing, or a refusal with the
figures. What is made replaces only what llmforge made there before (it has a label, see
`labels.py`), or an empty folder. No torch.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.render import size_text
from llmforge.run.making.holding import PlaceBusy, holder
from llmforge.run.making.labels import LABEL, read_label

_CGROUP = Path("/sys/fs/cgroup")


def check_target(
    folder: Path, stage: str, code: str, plan: Plan, needed: Sequence[Path] = ()
) -> None:
    """Refuse a folder that holds something else than what the stage makes.

    Args:
        needed: folders that it is made of; they must stay, whoever has made them.

    Raises:
        ConfigRefused: `code`; LF949 where another process is making something there.
    """
    key, hint = f"{stage}.folder", f"{stage}.folder=<another folder>"
    if (process := holder(folder)) is not None:
        busy = PlaceBusy(folder, process, key)
        raise _refused(plan, busy.code, str(busy), key, busy.notes, busy.hint)
    if not folder.exists():
        return
    if any(one.resolve().is_relative_to(folder.resolve()) for one in needed):
        raise _refused(plan, code, f"{folder} holds what this is made of", key, (), hint)
    if not folder.is_dir():
        raise _refused(plan, code, f"{folder} is a file", key, (), hint)
    inside = sorted(path.name for path in folder.iterdir())
    label = read_label(folder)
    if not inside or (label is not None and label.get("stage") == stage):
        return
    held = f"what `{label.get('stage')}` made" if label else ", ".join(inside[:5])
    notes = (f"only an empty folder is filled, or one that `llmforge {stage}` made ({LABEL})",)
    raise _refused(plan, code, f"{folder} holds something else: {held}", key, notes, hint)


def check_disk(needed: int, folder: Path, stage: str, code: str, plan: Plan) -> None:
    """Refuse where the file system of a folder has too little room.

    Args:
        needed: bytes that are written before anything there before goes.
        folder: that is made.

    Raises:
        ConfigRefused: `code`, with both figures.
    """
    free = free_disk(folder)
    if free is not None and needed > free:
        raise _refused(
            plan,
            code,
            f"{size_text(needed)} will be written to {folder}, and {size_text(free)} are free",
            f"{stage}.folder",
            ("what was made there before goes only when the new one stands",),
            f"{stage}.folder=<a folder with more room>",
        )


def check_memory(needed: int, parts: str, stage: str, code: str, plan: Plan) -> None:
    """Refuse where main memory is too small.

    Args:
        needed: bytes at the most crowded moment.
        parts: what they are made of, for people.

    Raises:
        ConfigRefused: `code`, with both figures.
    """
    free = free_memory()
    if free is not None and needed > free:
        message = f"about {size_text(needed)} of main memory are needed, {size_text(free)} are free"
        raise _refused(plan, code, message, stage, (parts,), None)


def free_disk(folder: Path) -> int | None:
    """Free bytes of the file system a folder lies on or will lie on; None where it is not told."""
    here = folder.absolute()
    while not here.exists() and here != here.parent:
        here = here.parent
    usage = shutil.disk_usage(here)
    return usage.free if usage.total else None


def free_memory() -> int | None:
    """Bytes of main memory that a process may still take: of the machine and of the control group.

    None on a system that tells neither.
    """
    found = [amount for amount in (_of_machine(), _of_group()) if amount is not None]
    return min(found) if found else None


def _of_machine() -> int | None:
    try:
        text = Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return None
    for line in text.splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None


def _of_group() -> int | None:
    """Of a container: its limit less what it holds, files in its cache not counted."""
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        held = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
        told = (_CGROUP / "memory.stat").read_text(encoding="ascii")
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    stat = dict(line.split() for line in told.splitlines())
    cached = int(stat.get("inactive_file", 0)) + int(stat.get("active_file", 0))
    return max(0, int(limit) - held + cached)


def _refused(
    plan: Plan, code: str, message: str, key: str, notes: tuple[str, ...], hint: str | None
) -> ConfigRefused:
    origins = plan.origins.chain(key)
    return ConfigRefused(
        [Diagnostic(code, message, key=key, origins=origins, notes=notes, hint=hint)]
    )
