"""The driver: start workers on a plan, pass signals on, say what came of it.

In: a plan and a stage. Out: `Outcome`. Every stage runs in processes of its own, so that an
out-of-memory or a segfault ends a worker and never the driver, and the driver stays light: no
torch, no MLflow, no Hydra.

The worker's output is the worker's business (see `terminal.py`); the driver prints nothing but the
result of a run that was finished before.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

from llmforge import registry
from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.plan import Plan
from llmforge.run import pruning, resharding, residents
from llmforge.run.endings import EXIT_FAILED, EXIT_STOPPED, Ending, oom_kills, settle, verdict
from llmforge.run.environment import PREVIEW, worker_environment
from llmforge.run.folder import RunBusy, RunFolder
from llmforge.run.making import order as making
from llmforge.run.making.order import Order
from llmforge.run.residents import Started
from llmforge.run.signals import WARNINGS
from llmforge.run.starting import commands
from llmforge.run.starting.commands import plan_of_node
from llmforge.run.starting.ranks import last_words
from llmforge.run.status import Status
from llmforge.track.sync import complete, is_complete

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, *WARNINGS)
"""Signals that stop a run: passed on to the workers, and torchrun with them, as SIGTERM; the second
time as SIGKILL, a batch system's warnings not counted."""


Asked = Callable[[], int | None]
"""Whether somebody else than a signal wants the run to stop: SIGTERM, SIGKILL, or None."""

_ASKING = 0.5
"""Seconds between two such questions."""


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
    """Why it failed: LF801-LF806, LF808, LF809."""
    reused: bool = False
    """It was finished before; nothing was started."""


def run_plan(
    plan: Plan,
    stage: str = "train",
    quiet: bool = False,
    preview: int = 0,
    asked: Asked | None = None,
    only: bool = False,
) -> Outcome:
    """Run one stage of a plan, or answer from its folder when it was trained before.

    With `fuse.after_training` the adapter of a finished training is fused, in a worker of its own;
    what is wrong there is in the outcome, and the training stays finished.

    Args:
        plan: what to run; its fingerprint names the folder.
        stage: `train` (prepares and evaluates as well), `prepare`, or `evaluate` for measuring a
            finished run again. The latter two leave the run's status as it is.
        quiet: nothing on the terminal; the log is written all the same.
        preview: samples to show after `prepare`.
        asked: asked now and then while the worker runs; what it says is passed on like a signal.
        only: leave the merge to the caller.
    """
    outcome = _run(plan, stage, quiet, preview, asked)
    wanted = stage == "train" and plan.settings["fuse"]["after_training"] and not only
    if wanted and outcome.status is Status.FINISHED and outcome.exit_code == 0:
        return _fused(plan, outcome, quiet)
    return outcome


def _fused(plan: Plan, trained: Outcome, quiet: bool) -> Outcome:
    """What came of a training and of the merge after it."""
    from llmforge.run.making.after import make_after  # which starts workers by this module

    try:
        fused = make_after(plan, "fuse", quiet)
    except ConfigRefused as refused:
        return replace(trained, exit_code=1, diagnostic=refused.diagnostics[0])
    reused = trained.reused and fused.reused
    return replace(trained, exit_code=fused.exit_code, diagnostic=fused.diagnostic, reused=reused)


def _run(plan: Plan, stage: str, quiet: bool, preview: int, asked: Asked | None) -> Outcome:
    run = RunFolder(plan.run_folder)
    if stage == "evaluate" and not run.manifest.is_file():
        message = f"run {plan.run_id} is {run.status().value}: it has no final model to evaluate"
        found = Diagnostic("LF809", message, notes=(f"looked in {run.path}",), hint="llmforge runs")
        return Outcome(run.status(), 1, run.path, diagnostic=found)
    if int(plan.settings["launch"].get("node_rank") or 0):
        return _assist(plan, run, stage, quiet)
    try:
        with run.lock() as handle:
            if stage == "train" and run.status() is Status.FINISHED and run.result():
                return _answer(plan, run, quiet)
            more = {PREVIEW: str(preview)}
            run = RunFolder.create(plan)
            if stage == "train" and (line := resharding.take_over(plan, run)) and not quiet:
                print(line, file=sys.stderr, flush=True)
            return _work(plan, run, stage, quiet, handle, more, asked)
    except RunBusy:
        return Outcome(run.status(), 1, run.path, diagnostic=_busy(plan, run))
    except ConfigRefused as refused:  # since it was checked, the other run has changed
        return Outcome(run.status(), 1, run.path, diagnostic=refused.diagnostics[0])


def run_measurement(
    plan: Plan, run: RunFolder, request: Mapping[str, str], quiet: bool = False
) -> Outcome:
    """Measure a run's model by a plan of its own; the run's plan, status and result stay.

    Args:
        plan: made for measuring; says how workers are launched.
        run: the run whose model it is.
        request: what to measure, as variables of the workers' environment.
        quiet: nothing on the terminal.
    """
    try:
        with run.lock() as handle:
            return _work(plan, run, "evaluate", quiet, handle, request)
    except RunBusy:
        return Outcome(run.status(), 1, run.path, diagnostic=_busy(plan, run))


def run_answers(
    plan: Plan, run: RunFolder, request: Mapping[str, str], quiet: bool = False
) -> Outcome:
    """Ask a run's model, and what was made of it, the same questions; as `run_measurement`."""
    try:
        with run.lock() as handle:
            return _work(plan, run, "answers", quiet, handle, request)
    except RunBusy:
        return Outcome(run.status(), 1, run.path, diagnostic=_busy(plan, run))


def run_making(plan: Plan, run: RunFolder, order: Order, quiet: bool = False) -> Outcome:
    """Make something of a run's model, or answer from its record when it was made before.

    Args:
        plan: says by which settings, and how workers are launched; saved beside the record.
        run: the run whose model it is; its plan, status and result stay.
        order: what to make, from what, where to.
        quiet: nothing on the terminal.

    Returns:
        The outcome, whose result is the record of what was made.
    """
    try:
        with run.lock() as handle:
            if (known := making.finished(run, order)) is not None:
                return Outcome(run.status(), 0, run.path, known, reused=True)
            plan.save(making.plan_file(run, order.stage))
            outcome = _work(plan, run, order.stage, quiet, handle, order.variables())
            return replace(outcome, result=making.finished(run, order))
    except RunBusy:
        return Outcome(run.status(), 1, run.path, diagnostic=_busy(plan, run))


def _busy(plan: Plan, run: RunFolder) -> Diagnostic:
    pid = run.record().pid
    return Diagnostic(
        "LF808",
        f"run {plan.run_id} is being worked on" + (f" by process {pid}" if pid else ""),
        key="paths.runs",
        origins=plan.origins.chain("paths.runs"),
        notes=(f"in {run.path}",),
        hint=f"kill {pid}" if pid else None,
    )


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


def _work(
    plan: Plan,
    run: RunFolder,
    stage: str,
    quiet: bool,
    lock: int,
    more: Mapping[str, str],
    asked: Asked | None = None,
) -> Outcome:
    if stage == "train" and run.status() is Status.PRUNED:
        pruning.forget(run)  # a sweep asks for none of these, so somebody wants this one whole
    attempt = run.record().attempts + (stage == "train")
    run.set_status(run.status(), attempts=attempt)
    for old in run.path.glob("failure-rank*.json"):
        old.unlink()
    environment = worker_environment(plan, attempt, quiet) | dict(more)
    ending = _attempt(plan, run, stage, quiet, lock, environment, asked)
    if ending.code == 0 and not commands.waits(plan):
        return Outcome(run.status(), 0, run.path)  # queued: the job keeps the status
    exit_code, diagnostic = (settle if stage == "train" else verdict)(run, ending)
    if exit_code == EXIT_FAILED and not quiet and (words := last_words(run)):
        print(words, file=sys.stderr, flush=True)
    if not is_complete(run) and not _warned(run):
        complete(run, environment)
    status = run.status()
    result = run.result() if status is Status.FINISHED else None
    return Outcome(status, exit_code, run.path, result, diagnostic)


_ALONE = ("prepare", "answers")
"""Stages done by one process here, whatever trains: they write for all, and share no work."""


def _attempt(
    plan: Plan,
    run: RunFolder,
    stage: str,
    quiet: bool,
    lock: int,
    environment: Mapping[str, str],
    asked: Asked | None = None,
) -> Ending:
    """Start the workers of this machine, or whoever starts them, and wait for the end."""
    kind = "local" if stage in _ALONE else plan.settings["launch"]["kind"]
    command = registry.component("launch", kind).load_builder()(plan, run.path, stage)
    kills = oom_kills()
    # With the lock's descriptor, the folder stays held while a worker lives, driver or no driver.
    worker: Started = residents.trial_of(plan, run.path, stage, environment, lock, quiet) or (
        subprocess.Popen(
            command,
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL if quiet else None,
            stderr=subprocess.DEVNULL if quiet else None,
            start_new_session=True,
            pass_fds=(lock,),
        )
    )
    with _forwarding(worker) as forwarded:
        code = _waited(worker, forwarded, asked)
    if residents.is_over(worker):
        _end_group(worker.pid)
    if code and not quiet and sys.stderr.isatty():
        print("\x1b[?25h", end="", file=sys.stderr)  # a killed progress bar had hidden the cursor
    by = signal.Signals(forwarded[0]).name if forwarded else None
    return Ending(code, bool(forwarded), oom_kills() > kills, by)


def _assist(plan: Plan, run: RunFolder, stage: str, quiet: bool) -> Outcome:
    """This machine's workers of a run whose status another machine, node 0, keeps."""
    node = int(plan.settings["launch"]["node_rank"])
    try:
        with run.lock(node=node) as handle:
            plan.save(plan_of_node(run.path, node))
            environment = worker_environment(plan, max(1, run.record().attempts), quiet)
            ending = _attempt(plan, run, stage, quiet, handle, environment)
    except RunBusy:
        return Outcome(run.status(), 1, run.path, diagnostic=_busy(plan, run))
    status = run.status()
    if status is Status.INTERRUPTED:
        return Outcome(status, EXIT_STOPPED, run.path)
    exit_code, diagnostic = verdict(run, ending)
    return Outcome(status, exit_code, run.path, diagnostic=diagnostic)


@contextmanager
def _forwarding(worker: Started) -> Iterator[list[int]]:
    """Pass stop signals on while the worker runs; yields the list of those that came.

    Outside the main thread (a sweep's thread pool) Python allows no handlers; whoever owns the main
    thread then stops the workers.
    """
    came: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        insists = number not in WARNINGS and any(known not in WARNINGS for known in came)
        came.append(number)
        if worker.poll() is not None:
            return
        if insists:
            os.killpg(worker.pid, signal.SIGKILL)
        elif len(came) == 1:  # torchrun would take a second one for impatience
            os.killpg(worker.pid, signal.SIGTERM)

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


def _waited(worker: Started, came: list[int], asked: Asked | None) -> int:
    """The worker's exit code; `came` gets what `asked` says, as if a signal had come."""
    if asked is None:
        return worker.wait()
    while True:
        try:
            return worker.wait(_ASKING)
        except subprocess.TimeoutExpired:
            number = asked()
        if number is not None and worker.poll() is None and (not came or number == signal.SIGKILL):
            came.append(number)
            os.killpg(worker.pid, number)


def _end_group(group: int) -> None:
    """No process of the attempt outlives it: a killed launcher leaves its ranks behind."""
    try:
        os.killpg(group, signal.SIGKILL)
    except ProcessLookupError:
        return


def _warned(run: RunFolder) -> bool:
    """Did the worker find out already that MLflow takes nothing?"""
    return any(warning["code"] == "LF807" for warning in run.record().warnings)
