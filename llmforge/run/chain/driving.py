"""The loop over a chain's stages: skip, do, keep, tell; end at the first that fails.

In: a plan, first and last stage, a way to compile the plan again. Out: `ChainOutcome`. A chain that
ended early, or was killed, goes on by the same command: whether a stage is done follows from what
it left, never from this loop's own record.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run.chain import telling
from llmforge.run.chain.clearing import check_chain
from llmforge.run.chain.doing import WITH_TRAINING, Done, do
from llmforge.run.chain.ledger import Entry, Ledger
from llmforge.run.chain.links import Link, links
from llmforge.run.chain.recording import recorded
from llmforge.run.folder import RunFolder
from llmforge.run.status import timestamp
from llmforge.run.terminal import Screen
from llmforge.stage_order import Stage

PATIENCE = 60.0
"""Seconds that another process may hold a run before the chain gives up."""
_PAUSE = 1.0
_HELD = ("LF808", "LF949")
"""Codes of a run, or a place, that a process holds."""

_ENDS = {0: "finished", 130: "interrupted"}


@dataclass(frozen=True)
class ChainOutcome:
    """What came of a chain."""

    exit_code: int
    """0 done, 1 a stage failed, 2 one was refused, 130 interrupted."""
    folder: Path
    """Of the plan's run."""
    stages: tuple[Entry, ...]
    found: tuple[Diagnostic, ...] = ()
    """What is to be told: why a stage failed, how to go on, what is not in MLflow."""


def run_chain(
    plan: Plan,
    again: Callable[[], Plan] | None = None,
    start: Stage | None = None,
    end: Stage | None = None,
    quiet: bool = False,
) -> ChainOutcome:
    """Do the stages of a plan.

    Args:
        again: compiles the plan once more, where its length follows from data that a stage
            prepares; None for a saved plan.
        start: the first stage; those before it must be finished.
        end: the last stage.
        quiet: nothing on the terminal.

    Raises:
        ConfigRefused: what a stage would refuse is refused before the first begins.
    """
    todo = links(plan, start, end)
    check_chain(plan, todo, settles=again is not None)
    screen = Screen() if quiet else Screen(sys.stdout, sys.stderr)
    run = RunFolder(plan.run_folder)
    if not run.plan_file.is_file():  # the plan of a run that is there is that of its training
        run = RunFolder.create(plan)
    ledger = Ledger(run, todo)
    with recorded(plan, ledger) as recorder:
        try:
            done = _loop(plan, again, (start, end), ledger, screen, quiet, recorder.news)
        except KeyboardInterrupt:
            _mark_stopped(ledger)
            done = Done(130)
        ledger.end(_ENDS.get(done.code, "failed"))
    if not quiet:
        screen.tell(f"\n{telling.overview(ledger.entries)}")
    found = (*done.found, *_how_to_go_on(ledger, done.code), *recorder.found)
    return ChainOutcome(done.code, run.path, tuple(ledger.entries), found)


def _loop(
    plan: Plan,
    again: Callable[[], Plan] | None,
    ends: tuple[Stage | None, Stage | None],
    ledger: Ledger,
    screen: Screen,
    quiet: bool,
    news: Callable[[], None],
) -> Done:
    """Every stage until one fails; returns the last."""
    todo, done = links(plan, *ends), Done()
    total = sum(link.left_out is None for link in todo)
    number = 0
    for place in range(len(todo)):
        link = todo[place]
        if link.left_out is not None:
            screen.say(telling.skipped(ledger.entries[place]))
            continue
        number += 1
        began, clock = timestamp(), time.monotonic()
        entry = ledger.set(place, state="running", began=began)
        news()
        screen.say(telling.beginning(entry, number, total))
        done = _done_when_free(link, quiet, screen)
        if done.why == WITH_TRAINING and ledger.found_training_of(link):
            done = replace(done, reused=True, why="")
        seconds = round(time.monotonic() - clock, 1)
        entry = ledger.set(place, **_entry(done, link, seconds))
        news()
        if done.code:
            return done
        if entry.state == "found":
            screen.say(telling.skipped(entry))
        if link.stage == "prepare" and not link.plan.settled and again is not None:
            # now its length is known, and with it the plans of all stages that follow
            todo = links(again(), *ends)
    return done


def _done_when_free(link: Link, quiet: bool, screen: Screen) -> Done:
    """Do a stage; the worker that a killed chain left behind saves its state and ends by itself."""
    deadline, said = time.monotonic() + PATIENCE, False
    while True:
        done = do(link, quiet)
        held = any(found.code in _HELD for found in done.found)
        if not held or time.monotonic() > deadline:
            return done
        if not said:
            screen.say(f"{link.name}: {done.found[0].message}; waiting for it to end")
            said = True
        time.sleep(_PAUSE)


def _entry(done: Done, link: Link, seconds: float) -> dict[str, object]:
    state = "found" if done.reused else "done"
    if done.code:
        state = "interrupted" if done.code == 130 else "failed"
    return {
        "state": state,
        "why": done.why,
        "seconds": None if done.why and not done.code else seconds,
        "ended": timestamp(),
        "figures": dict(done.figures),
        "place": done.place,
        "record": done.record,
        "fingerprint": link.plan.stages.get(link.stage, ""),
    }


def _mark_stopped(ledger: Ledger) -> None:
    for place, entry in enumerate(ledger.entries):
        if entry.state == "running":
            ledger.set(place, state="interrupted", ended=timestamp())


def _how_to_go_on(ledger: Ledger, code: int) -> Sequence[Diagnostic]:
    """LF982 of a chain that did not come to its end."""
    if not code:
        return ()
    entry = next((e for e in ledger.entries if e.state in ("failed", "interrupted")), None)
    name = entry.name if entry is not None else "the first stage"
    finished = [e.name for e in ledger.entries if e.state in ("done", "found")]
    kept = (f"finished and kept: {', '.join(finished)}",) if finished else ()
    what = "was interrupted" if code == 130 else "failed"
    return (
        Diagnostic(
            "LF982",
            f"`{name}` {what}, so the stages after it were not begun",
            Severity.WARNING,
            notes=(*kept, f"the same command goes on with `{name}`"),
        ),
    )
