"""`llmforge doctor --launch`: the plan's own launcher, with a tiny job in place of the training.

In: a plan. Out: what every rank found (`stages/probe.py`) as a table, and findings: nodes that are
not alike, clocks that differ, disks that are too small for the run. The job lies in a folder of its
own beside the runs, which is removed afterwards, however it ended; logs stay where they alone can
tell what happened. Nothing is recorded anywhere else.
"""

from __future__ import annotations

import contextlib
import copy
import shutil
import sys
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.render import size_text, table
from llmforge.run.endings import EXIT_DONE, EXIT_FAILED
from llmforge.run.folder import RunFolder
from llmforge.run.launch import Outcome, run_plan
from llmforge.run.starting.ranks import last_words
from llmforge.run.starting.ray_storage import forget
from llmforge.run.starting.reach_launch import check_launch

FOLDER = ".doctor"
_LOGS = "log*.txt"
_CLOCKS = 5.0
"""Seconds by which clocks may differ: more, and the journal's times mislead."""


def probe_nodes(plan: Plan) -> tuple[dict[str, Any] | None, Outcome]:
    """Start the tiny job; returns what the ranks found, None where they could not, and how the job
    ended: its notes say where logs are, if any were kept.

    Raises:
        ConfigRefused: the launcher cannot reach what it needs.
    """
    check_launch(plan)
    settings = copy.deepcopy(plan.settings)
    settings["paths"]["runs"] = str(Path(settings["paths"]["runs"]) / FOLDER)
    settings["tracking"] = {"kind": "none"}
    apart = replace(plan, settings=settings)
    run, keep = RunFolder(apart.run_folder), False
    try:
        outcome = run_plan(apart, "probe")
        found = run.read_json("probe.json") if outcome.exit_code == EXIT_DONE else None
        if outcome.diagnostic is not None:
            keep = outcome.exit_code == EXIT_FAILED and last_words(run) is None
            outcome = replace(outcome, diagnostic=_mended(outcome.diagnostic, run, keep))
    finally:
        # node 0 clears up for all, once it is there
        if not int(settings["launch"].get("node_rank") or 0) or not run.plan_file.is_file():
            _clear(run, keep)
    if (storage := settings["launch"].get("storage")) is not None:
        _forget(storage, f"{apart.run_id}-probe")
    return found, outcome


def _mended(told: Diagnostic, run: RunFolder, keep: bool) -> Diagnostic:
    """Without the way to logs that are removed, or with the way to those that stay."""
    notes = [note for note in told.notes if str(run.path) not in note]
    logs = ", ".join(sorted(str(log) for log in run.path.glob(_LOGS))) if keep else ""
    return replace(told, notes=(*notes, f"output in {logs}") if logs else tuple(notes))


def _clear(run: RunFolder, keep: bool) -> None:
    """Remove the job's folder, or what of it is no log."""
    if not keep:
        shutil.rmtree(run.path, ignore_errors=True)
    for path in run.path.glob("*") if keep else ():
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        elif not path.match(_LOGS):
            path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # another job's folder, or these logs, are in it
        run.path.parent.rmdir()


def _forget(storage: str, name: str) -> None:
    """Remove the job from the launcher's storage; where that does not answer, say what is left."""
    try:
        forget(storage, name)
    except OSError as error:
        print(f"{name} may be left in {storage}: {error}", file=sys.stderr)


_HEAD = (
    *("rank", "host", "GPUs", "driver", "llmforge", "torch"),
    *("sees paths.runs", "free disk", "clock", "all-reduce"),
)


def report(found: Mapping[str, Any]) -> str:
    """The table: one line for each rank."""
    rows = [
        (
            str(told["rank"]),
            told["host"],
            f"{told['gpus']} x {told['device']}" if told["gpus"] else told["device"],
            told["driver"] or "-",
            told["versions"]["llmforge"],
            told["versions"].get("torch", "-"),
            "yes" if told["shared"] else "NO",
            size_text(told["free_runs_bytes"]),
            f"{told['clock_offset']:+.3f} s",
            f"{told['bandwidth'] / 1e9:.2f} GB/s" if told["bandwidth"] else "-",
        )
        for told in found["ranks"]
    ]
    return table(rows, _HEAD)


def findings(plan: Plan, found: Mapping[str, Any]) -> Iterator[Diagnostic]:
    """What is wrong with the nodes."""
    if found["differences"]:
        yield Diagnostic(
            "LF463",
            "the nodes of this plan are not alike",
            key="launch.kind",
            origins=plan.origins.chain("launch.kind"),
            notes=tuple(found["differences"]),
        )
    blind = sorted({told["host"] for told in found["ranks"] if not told["shared"]})
    if blind and not plan.settings["launch"].get("storage"):
        yield Diagnostic(
            "LF466",
            f"{', '.join(blind)} does not see the run folder of rank 0",
            key="paths.runs",
            origins=plan.origins.chain("paths.runs"),
            hint="paths.runs=<a folder that nodes share>",
        )
    for told in found["ranks"]:
        if abs(told["clock_offset"]) > _CLOCKS:
            yield Diagnostic(
                "LF463",
                f"the clock of {told['host']} is {told['clock_offset']:+.0f} s from rank 0's",
                severity=Severity.WARNING,
            )
    needed = (plan.estimate.get("disk") or {}).get("total_bytes")
    least = min(found["ranks"], key=lambda told: told["free_runs_bytes"])
    if needed and least["free_runs_bytes"] < needed:
        yield Diagnostic(
            "LF820",
            f"{size_text(least['free_runs_bytes'])} free on {least['host']}; the run takes "
            f"{size_text(needed)}",
            severity=Severity.WARNING,
            key="paths.runs",
            origins=plan.origins.chain("paths.runs"),
        )
