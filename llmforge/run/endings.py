"""How an attempt ended: the driver's reading of exit codes, statuses and failure files.

In: a run folder after its workers are gone, their exit code, and whether they were asked to stop.
Out: exit code and diagnostic for the user, and in the folder a status that is true, also where a
killed worker could not write one.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmforge.diagnostics import Diagnostic
from llmforge.origins import Origin
from llmforge.run.folder import RunFolder
from llmforge.run.starting.ranks import failures
from llmforge.run.status import Status

EXIT_DONE, EXIT_FAILED, EXIT_STOPPED = 0, 1, 130

_FOUND_BY_MAIN = ("LF820", "LF821", "LF822")
"""Faults that rank 0 alone looks for, while the others wait for it and lose their connection."""


@dataclass(frozen=True)
class Ending:
    """What the driver saw."""

    code: int
    """Exit code of the worker; negative for a signal, as `subprocess` tells it."""
    asked: bool
    """Was a stop passed on?"""
    oom: bool
    """Did the kernel kill a process of this control group for memory meanwhile?"""
    by: str | None = None
    """The signal that asked, as the driver got it: workers get SIGTERM whatever it was."""


def settle(run: RunFolder, ending: Ending) -> tuple[int, Diagnostic | None]:
    """End of the `train` stage: completes the status."""
    record = run.record()
    found = failures(run)
    wrote = record.pid is None and record.status in (
        *(Status.FINISHED, Status.FAILED, Status.INTERRUPTED, Status.PRUNED),
    )
    blamed = record.status is Status.FAILED and record.code in _FOUND_BY_MAIN
    over = record.status in (Status.FINISHED, Status.PRUNED)
    silent = bool(found) and all(told.get("lost") for told in found) and _signal(ending) is not None
    if silent and not ending.asked and not over:
        # those that are left say only that one is gone, and the launcher knows how it went
        _fail(run, _unsaid(run, ending).to_dict())
    elif found and not ending.asked and not blamed and not over:
        # rank 0 saw only that its neighbour was gone
        _fail(run, found[0])
    elif not wrote and ending.asked:
        # a second Ctrl-C, or one before the worker listened
        reason = f"{_cause(ending)} on request; the same command {_next(run)}"
        run.set_status(Status.INTERRUPTED, pid=None, reason=reason)
    elif not wrote:
        _fail(run, _unsaid(run, ending).to_dict())
    elif ending.by and record.status is Status.INTERRUPTED:
        reason = (record.reason or "").replace(signal.SIGTERM.name, ending.by, 1)
        run.set_status(Status.INTERRUPTED, reason=reason)
    record = run.record()
    if record.status in (Status.FINISHED, Status.PRUNED):
        return EXIT_DONE, None
    if record.status is Status.INTERRUPTED:
        return EXIT_STOPPED, None
    told = record.diagnostic or {"code": record.code, "message": record.reason}
    return EXIT_FAILED, _typed(run, told)


def verdict(run: RunFolder, ending: Ending) -> tuple[int, Diagnostic | None]:
    """End of another stage: the run's status stays what it was."""
    if ending.code == EXIT_DONE:
        return EXIT_DONE, None
    if ending.asked or ending.code == EXIT_STOPPED:
        return EXIT_STOPPED, None
    found = failures(run)
    return EXIT_FAILED, _typed(run, found[0]) if found else _unsaid(run, ending)


_DIAGNOSTIC = ("code", "severity", "message", "key", "origins", "notes", "hint", "rank")


def _fail(run: RunFolder, told: Mapping[str, Any]) -> None:
    found = {name: told[name] for name in _DIAGNOSTIC if name in told}
    run.set_status(
        Status.FAILED, pid=None, code=found["code"], reason=found["message"], diagnostic=found
    )


def _typed(run: RunFolder, found: Mapping[str, Any]) -> Diagnostic:
    """A written diagnostic as an object, with the way to the log."""
    notes = list(found.get("notes", ()))
    if found["code"] != "LF804":
        notes.append(f"traceback in {run.log(int(found.get('rank', 0)))}")
        if run.checkpoints():
            notes.append(f"the same command {_next(run)}")
    return Diagnostic(
        str(found["code"]),
        str(found["message"]),
        key=found.get("key"),
        origins=tuple(Origin.from_dict(origin) for origin in found.get("origins", ())),
        notes=tuple(dict.fromkeys(notes)),
        hint=found.get("hint"),
    )


def _unsaid(run: RunFolder, ending: Ending) -> Diagnostic:
    """The worker ended without a word."""
    code = "LF804" if _signal(ending) else "LF801"
    notes = (*_why(ending), f"output in {run.log()}", f"the same command {_next(run)}")
    return Diagnostic(code, _cause(ending), notes=notes)


def _next(run: RunFolder) -> str:
    done = run.status() is Status.FINISHED  # another stage than the training has failed
    newest = None if done else next(iter(run.checkpoints()), None)
    return f"goes on after step {newest.step}" if newest else "starts again"


def _signal(ending: Ending) -> signal.Signals | None:
    """The signal that ended the worker; a launcher tells it as 128 and the number."""
    number = -ending.code if ending.code < 0 else ending.code - 128
    try:
        return signal.Signals(number)
    except ValueError:
        return None


def _cause(ending: Ending) -> str:
    killer = _signal(ending)
    if killer is None:
        return f"the worker ended with exit code {ending.code} before it could say why"
    by = " by the kernel, out of main memory" if ending.oom and killer is signal.SIGKILL else ""
    return f"the worker was killed by {killer.name}{by}"


def _why(ending: Ending) -> tuple[str, ...]:
    killer = _signal(ending)
    if killer is signal.SIGKILL:
        if ending.oom:
            return ("the kernel's OOM killer counted a victim while it ran",)
        return ("often this is the kernel's OOM killer; `dmesg` or the container's log tells",)
    if killer in (signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGABRT):
        return ("a fault inside a compiled library; a driver or version mismatch is likely",)
    return ()


def oom_kills() -> int:
    """How many processes of this control group the kernel has killed for memory."""
    try:
        text = Path("/sys/fs/cgroup/memory.events").read_text(encoding="ascii")
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))
