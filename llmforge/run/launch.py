"""The driver: start workers on a plan, pass signals on, say what came of it.

In: a plan and a stage. Out: `Outcome`. Every stage runs in processes of its own, so that an
out-of-memory or a segfault ends a worker and never the driver, and the driver stays light: no
torch, no MLflow, no Hydra.

The worker's output is the worker's business (see `terminal.py`); the driver prints nothing but the
result of a run that was finished before.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

from llmforge import registry
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run.environment import worker_environment
from llmforge.run.folder import RunBusy, RunFolder
from llmforge.run.status import Status
from llmforge.track.sync import complete, is_complete

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop a run: passed on to the workers as SIGTERM, the second time as SIGKILL."""

EXIT_CODES = {Status.FINISHED: 0, Status.CREATED: 0, Status.INTERRUPTED: 130}


@dataclass(frozen=True)
class Outcome:
    """What came of a run."""

    status: Status
    exit_code: int
    """0 done, 1 failed, 130 interrupted."""
    folder: Path
    result: dict[str, Any] | None = None
    """`result.json` of a finished run."""
    diagnostic: Diagnostic | None = None
    """Why it failed: LF801-LF806, LF808."""
    reused: bool = False
    """It was finished before; nothing was started."""


def run_plan(plan: Plan, stage: str = "train", quiet: bool = False) -> Outcome:
    """Run one stage of a plan, or answer from its folder when it was trained before.

    Args:
        plan: what to run; its fingerprint names the folder.
        stage: `train` (prepares and evaluates as well), `prepare`, or `evaluate` for measuring a
            finished run again.
        quiet: nothing on the terminal; the log is written all the same.
    """
    run = RunFolder(plan.run_folder)
    try:
        with run.lock() as handle:
            if stage == "train" and run.status() is Status.FINISHED and run.result():
                return _answer(plan, run, quiet)
            return _work(plan, RunFolder.create(plan), stage, quiet, handle)
    except RunBusy:
        pid = run.record().pid
        found = Diagnostic(
            "LF808",
            f"run {plan.run_id} is being worked on" + (f" by process {pid}" if pid else ""),
            key="paths.runs",
            origins=plan.origins.chain("paths.runs"),
            notes=(f"in {run.path}",),
            hint="name=another" if not pid else f"kill {pid}",
        )
        return Outcome(run.status(), 1, run.path, diagnostic=found)


def _answer(plan: Plan, run: RunFolder, quiet: bool) -> Outcome:
    """A finished run: its result, and what its record may still miss."""
    result = run.result()
    if not is_complete(run):
        complete(run, worker_environment(plan, run.record().attempts))
    if not quiet and result:
        from llmforge.run.terminal import Screen, closing

        screen = Screen(sys.stdout, sys.stderr)
        screen.say(f"{plan.run_id} was finished at {run.record().updated}; this is its result")
        screen.tell(closing(plan, run, result))
    return Outcome(Status.FINISHED, 0, run.path, result, reused=True)


def _work(plan: Plan, run: RunFolder, stage: str, quiet: bool, lock: int) -> Outcome:
    attempt = run.record().attempts + 1
    run.set_status(run.status(), attempts=attempt)
    for old in run.path.glob("failure-rank*.json"):
        old.unlink()
    launch = registry.component("launch", plan.settings["launch"]["kind"])
    command = launch.load_builder()(plan, run.path, stage)
    environment = worker_environment(plan, attempt, quiet)
    kills = _oom_kills()
    # With the lock's descriptor, the folder stays held while a worker lives, driver or no driver.
    worker = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL if quiet else None,
        stderr=subprocess.DEVNULL if quiet else None,
        start_new_session=True,
        pass_fds=(lock,),
    )
    with _forwarding(worker) as forwarded:
        code = worker.wait()
    _end_group(worker.pid)
    _judge(run, code, bool(forwarded), _oom_kills() > kills)
    if run.status() is not Status.CREATED and not is_complete(run) and not _warned(run):
        complete(run, environment)
    record = run.record()
    failed = record.status is Status.FAILED
    return Outcome(
        record.status,
        EXIT_CODES.get(record.status, 1),
        run.path,
        run.result() if record.status is Status.FINISHED else None,
        _diagnostic(run) if failed else None,
    )


def local_command(plan: Plan, folder: Path, stage: str) -> list[str]:
    """One process (builder of `launch.kind=local`)."""
    del plan
    return [sys.executable, "-m", "llmforge.run.worker", str(folder), "--stage", stage]


def torchrun_command(plan: Plan, folder: Path, stage: str) -> list[str]:
    """One process per device on this node (builder of `launch.kind=torchrun`)."""
    processes = str(plan.settings["launch"]["processes"])
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *("--standalone", "--nproc-per-node", processes),
        # saving takes longer than the half-minute after which torchrun kills by default
        *("--shutdown-timeout", "600"),
        *("-m", "llmforge.run.worker", str(folder), "--stage", stage),
    ]


@contextmanager
def _forwarding(worker: subprocess.Popen[bytes]) -> Iterator[list[int]]:
    """Pass stop signals on while the worker runs; yields the list of those that came.

    Outside the main thread (a sweep's thread pool) Python allows no handlers; whoever owns the main
    thread then stops the workers.
    """
    came: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        came.append(number)
        send = signal.SIGTERM if len(came) == 1 else signal.SIGKILL
        if worker.poll() is None:
            os.killpg(worker.pid, send)

    if threading.current_thread() is not threading.main_thread():
        yield came
        return
    before = {number: signal.getsignal(number) for number in FORWARDED}
    try:
        for number, handler in before.items():
            # `nohup` ignores SIGHUP for a reason
            if handler is not signal.SIG_IGN:
                signal.signal(number, forward)
        yield came
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end_group(group: int) -> None:
    """No process of the attempt outlives it: a killed launcher leaves its ranks behind."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _judge(run: RunFolder, code: int, asked: bool, oom: bool) -> None:
    """Write the status where the workers could not, or where rank 0 did not see the cause."""
    record = run.record()
    ranks = sorted(run.path.glob("failure-rank*.json"))
    if ranks and not asked and record.status is not Status.FINISHED:
        found = json.loads(ranks[0].read_text(encoding="utf-8"))
        _fail(
            run,
            {**found, "message": f"{ranks[0].stem.removeprefix('failure-')}: {found['message']}"},
        )
        return
    ended = record.status in (Status.FINISHED, Status.FAILED, Status.INTERRUPTED)
    wrote = ended and record.pid is None
    if wrote or (code == 0 and record.status is Status.CREATED):
        return
    newest = next(iter(run.checkpoints()), None)
    kept = f"goes on after step {newest.step}" if newest else "starts again"
    message = _cause(code, oom)
    notes = (*_why(code, oom), f"output in {run.log()}", f"the same command {kept}")
    _fail(
        run,
        Diagnostic("LF804" if code < 0 or code > 128 else "LF801", message, notes=notes).to_dict(),
    )


def _fail(run: RunFolder, found: dict[str, Any]) -> None:
    run.set_status(
        Status.FAILED, pid=None, code=found["code"], reason=found["message"], diagnostic=found
    )


def _cause(code: int, oom: bool) -> str:
    number = -code if code < 0 else code - 128 if code > 128 else 0
    try:
        name = signal.Signals(number).name
    except ValueError:
        return f"the worker ended with exit code {code} before it could say why"
    by = " by the kernel, out of main memory" if oom and name == "SIGKILL" else ""
    return f"the worker was killed by {name}{by}"


def _why(code: int, oom: bool) -> tuple[str, ...]:
    if code in (-signal.SIGKILL, 128 + signal.SIGKILL):
        if oom:
            return ("the kernel's OOM killer counted a victim while it ran",)
        return ("often this is the kernel's OOM killer; `dmesg` or the container's log tells",)
    if code in (-signal.SIGSEGV, -signal.SIGBUS, -signal.SIGILL, -signal.SIGABRT):
        return ("a fault inside a compiled library; a driver or version mismatch is likely",)
    return ()


def _diagnostic(run: RunFolder) -> Diagnostic:
    """The failure in the status, typed again."""
    from llmforge.origins import Origin

    record = run.record()
    found = dict(record.diagnostic or {})
    newest = next(iter(run.checkpoints()), None)
    notes = list(found.get("notes", ()))
    if record.code != "LF804":
        notes.append(f"traceback in {run.log()}")
        if newest:
            notes.append(f"the same command goes on after step {newest.step}")
    return Diagnostic(
        record.code or "LF801",
        record.reason or "the worker failed",
        severity=Severity.ERROR,
        key=found.get("key"),
        origins=tuple(Origin.from_dict(origin) for origin in found.get("origins", ())),
        notes=tuple(notes),
        hint=found.get("hint"),
    )


def _warned(run: RunFolder) -> bool:
    """Did the worker find out already that MLflow takes nothing?"""
    return any(warning["code"] == "LF807" for warning in run.record().warnings)


def _oom_kills() -> int:
    """How many processes of this control group the kernel has killed for memory."""
    try:
        text = Path("/sys/fs/cgroup/memory.events").read_text(encoding="ascii")
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))
