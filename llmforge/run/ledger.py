"""The ledger of runs: from what a person types to a run folder.

In: a folder's path, a run id or the start of one, `last`, or an MLflow run id. Out: `RunFolder`
(see `folder.py`). Reads only the names of folders and their `mlflow.json`; never asks a server.
"""

from __future__ import annotations

from pathlib import Path

from llmforge.diagnostics import near
from llmforge.run.folder import RunBusy, RunFolder
from llmforge.run.status import Status, StatusRecord

__all__ = ["RunBusy", "RunFolder", "Status", "StatusRecord", "all_runs", "find_run", "list_runs"]

SWEEPS = "multirun"
"""Beside the runs: where sweeps keep their trials, as `sweep.folder` is shipped."""


def list_runs(runs: Path) -> list[RunFolder]:
    """Every run folder below `runs`, the one touched last first."""
    found = [RunFolder(path.parent) for path in Path(runs).glob("*/plan.json")]
    return sorted(found, key=_touched, reverse=True)


def all_runs(runs: Path, sweeps: Path | None = None) -> list[RunFolder]:
    """Runs of their own and trials of sweeps, the one touched last first.

    Args:
        sweeps: parent of the sweeps' folders; beside `runs` when it is not given.
    """
    trials = (sweeps or Path(runs).parent / SWEEPS).glob("*/*/plan.json")
    found = [*list_runs(runs), *(RunFolder(path.parent) for path in trials)]
    return sorted(found, key=_touched, reverse=True)


def find_run(ref: str, runs: Path) -> RunFolder:
    """The run that `ref` means, also one that is a trial of a sweep.

    Raises:
        LookupError: none, or more than one; the message names those that come near.
    """
    if (Path(ref) / "plan.json").is_file():
        return RunFolder.open(ref)
    known = all_runs(runs)
    if ref == "last":
        if not known:
            raise LookupError(f"there is no run in {runs} yet")
        return known[0]
    if exact := [run for run in known if ref in (run.run_id, _mlflow_id(run))]:
        return exact[0]
    # two characters of an MLflow id would match by chance, eight hardly ever
    starts = [
        run
        for run in known
        if run.run_id.startswith(ref) or (len(ref) >= 8 and _mlflow_id(run).startswith(ref))
    ]
    # the same run, by itself and as a trial, is one answer
    if len({run.run_id for run in starts}) == 1:
        return starts[0]
    if starts:
        raise LookupError(f"`{ref}` could be {_listed([run.run_id for run in starts])}")
    close = near(ref, [run.run_id for run in known]) or [run.run_id for run in known[:3]]
    told = f"; there are {_listed(close)}" if close else f"; {runs} holds none"
    raise LookupError(f"no run `{ref}`{told}")


def _touched(run: RunFolder) -> float:
    status = run.path / "status.json"
    return (status if status.is_file() else run.plan_file).stat().st_mtime


def _mlflow_id(run: RunFolder) -> str:
    return str((run.read_json("mlflow.json") or {}).get("run_id") or "")


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:5])
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"
