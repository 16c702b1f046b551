"""Tell a sweep from its folder: its page, and its run in MLflow, parent of its trials' runs.

    python -m llmforge.report.record FOLDER [--ended finished|interrupted]

In: a sweep's folder. Out: `report.html` in it; in MLflow what was sought and varied, the points,
the refusals, the leaderboard, the best trial, importance, pictures, the page. The driver starts
this in a process of its own (`sweep/recorder.py`), before, while and after trials run, so that it
never imports MLflow and no trouble here stops a sweep. Exit code 0: all was written.
"""

from __future__ import annotations

import argparse
import csv
import json
import logging
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llmforge import registry
from llmforge.plan import Plan
from llmforge.report import drawing
from llmforge.report.importance import Importance
from llmforge.report.page import NAME
from llmforge.report.sweep_page import (
    MOST_TRIALS,
    curves,
    importance_of,
    parallel,
    write_sweep_page,
)
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.recorder import FINISHED, INTERRUPTED
from llmforge.sweep.view import SweepView, TrialView
from llmforge.track.parent import ParentRecord, Point
from llmforge.track.sync import is_complete

logger = logging.getLogger(__name__)


def record(folder: Path, ended: str | None = None) -> None:
    """Write the page, then what MLflow is to know; raises whatever MLflow raises.

    Args:
        ended: the sweep is over: interrupted, or at its end; None while trials run.
    """
    sweep = SweepView.read(folder)
    try:
        write_sweep_page(folder)
    except OSError as error:
        logger.warning("no page: %s", error)
    plan = plan_of_a_trial(folder)
    if plan is None or plan.settings["tracking"]["kind"] == "none":
        return
    parent = ParentRecord(sweep.folder, sweep.name, plan.settings["tracking"])
    parent.open()
    for trial in sweep.trials:
        if trial.folder is not None:
            parent.adopt(trial.folder)
    if ended is not None:
        settle(sweep)
    mattered = importance_of(sweep)
    parent.parameters(_parameters(sweep))
    parent.tags(_tags(sweep))
    series = finished(sweep)
    parent.metrics(_metrics(sweep, series, parent.told, mattered), len(series))
    with tempfile.TemporaryDirectory(prefix="llmforge-sweep-") as scratch:
        _files(sweep, mattered, Path(scratch))
        parent.files(Path(scratch))
    if ended is not None:
        parent.close(_ending(sweep, ended))


def plan_of_a_trial(folder: Path) -> Plan | None:
    """The plan of any trial: all of a sweep are recorded in one place."""
    for file in sorted(Path(folder).glob("*/plan.json")):
        return Plan.load(file)
    return None


def settle(sweep: SweepView) -> None:
    """Complete the records of trials whose worker is gone without having closed them.

    Raises:
        ConnectionError: MLflow does not take one of them.
    """
    for trial in sweep.trials:
        run = RunFolder(trial.folder) if trial.folder else None
        if run is None or trial.status == Status.RUNNING.value or is_complete(run):
            continue
        plan = run.plan()
        tracker = registry.component("tracking", plan.settings["tracking"]["kind"]).load_builder()()
        tracker.start(plan, run)
        tracker.finish(run.status(), run.result())
        if not is_complete(run):
            raise ConnectionError(f"the record of {run.run_id} cannot be completed")


def finished(sweep: SweepView) -> list[TrialView]:
    """Finished trials in the order in which they came to their end."""
    return sorted(sweep.ranked, key=lambda one: (one.updated, one.number))


def leaderboard(sweep: SweepView) -> list[dict[str, Any]]:
    """Finished trials, best first, then the others."""
    others = [one for one in sweep.trials if one not in sweep.ranked]
    return [
        {
            "run": one.run_id,
            "status": one.status.lower(),
            **one.values,
            **one.figures,
            **({"code": one.code, "reason": one.reason} if one.is_failed else {}),
        }
        for one in (*sweep.ranked, *others)
    ]


def _ending(sweep: SweepView, ended: str) -> str:
    """In MLflow's words."""
    if ended == INTERRUPTED or any(o.status == Status.INTERRUPTED.value for o in sweep.trials):
        return "KILLED"
    return "FAILED" if sweep.stopped or not sweep.ranked else "FINISHED"


def _parameters(sweep: SweepView) -> dict[str, str]:
    known = sweep.definition
    found = {
        "sweep.kind": str(known.get("kind", "")),
        "sweep.objective": sweep.objective,
        "sweep.direction": "minimize" if sweep.minimize else "maximize",
        "sweep.fixed": " ".join(known.get("fixed", ())) or "(nothing)",
    }
    found |= {f"space.{key}": str(text) for key, text in known.get("space", {}).items()}
    return {_name(key): text[:500] for key, text in found.items()}


def _tags(sweep: SweepView) -> dict[str, str]:
    found = {f"llmforge.{name}": str(count) for name, count in sweep.counts.items()}
    if sweep.stopped:
        found["llmforge.stopped"] = str(sweep.stopped.get("message", ""))
    best = sweep.best
    if best is not None and best.folder is not None:
        state = RunFolder(best.folder).read_json("mlflow.json") or {}
        found |= {"best.run": str(best.run_id), "best.mlflow_run": str(state.get("run_id", ""))}
        found |= {_name(f"best.{key}"): text for key, text in best.values.items()}
    return found


def _metrics(
    sweep: SweepView, series: Sequence[TrialView], told: int, mattered: Importance
) -> list[Point]:
    """Each trial's figure and the best until then, over the number of finished trials; the best
    trial's figures and the shares at the newest of them."""
    choose = min if sweep.minimize else max
    found: list[Point] = []
    best: float | None = None
    for step, trial in enumerate(series, start=1):
        value = float(trial.figures[sweep.objective])
        best = value if best is None else choose(best, value)
        if step > told:
            time = _milliseconds(trial)
            found.append((_name(f"trial.{sweep.objective}"), value, step, time))
            found.append((_name(f"best_so_far.{sweep.objective}"), best, step, time))
    if sweep.best is not None:
        last, time = len(series), _milliseconds(series[-1])
        figures = {f"best.{name}": value for name, value in sweep.best.figures.items()}
        shares = {f"importance.{key}": share for key, share in mattered.shares.items()}
        for name, value in (figures | shares).items():
            found.append((_name(name), float(value), last, time))
    return found


def _files(sweep: SweepView, mattered: Importance, target: Path) -> None:
    """What is kept as artifacts."""
    folder = SweepFolder(sweep.folder)
    for file in (
        folder.definition_file,
        folder.points_file,
        folder.stopped_file,
        sweep.folder / NAME,
    ):
        if file.is_file():
            shutil.copy(file, target / file.name)
    board = leaderboard(sweep)
    _json(target / "leaderboard.json", board)
    columns = list(dict.fromkeys(name for row in board for name in row))
    with (target / "leaderboard.csv").open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, columns, restval="")
        writer.writeheader()
        writer.writerows(board)
    refused = [{"values": dict(o.values), "codes": o.codes, "reasons": o.reasons}
               for o in sweep.refused]  # fmt: skip
    _json(target / "refused.json", refused)
    _json(target / "importance.json", mattered.to_dict())
    others = [one for one in sweep.trials if one not in sweep.ranked]
    drawn = [one for one in (*sweep.ranked, *others) if one.folder is not None][:MOST_TRIALS]
    pictures = {f"curve-{number}": picture for number, picture in enumerate(curves(sweep, drawn))}
    pictures["parallel"] = parallel(sweep)
    pictures["importance"] = drawing.bars("importance", mattered.shares)
    (target / "plots").mkdir()
    for name, picture in pictures.items():
        if picture:
            text = drawing.standalone(picture)
            (target / "plots" / f"{name}.svg").write_text(text, encoding="utf-8", errors="replace")


def _json(target: Path, value: Any) -> None:
    target.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _milliseconds(trial: TrialView) -> int:
    return int(datetime.fromisoformat(trial.updated).timestamp() * 1000)


def _name(text: str) -> str:
    """A name that MLflow takes: letters, digits and a few signs."""
    return re.sub(r"[^\w./ -]", "_", text, flags=re.ASCII)[:250]


def main(argv: Sequence[str]) -> int:
    """See the module."""
    parser = argparse.ArgumentParser(prog="llmforge.report.record")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--ended", choices=(FINISHED, INTERRUPTED))
    parsed = parser.parse_args(argv)
    try:
        record(parsed.folder, parsed.ended)
    except Exception as error:  # MLflow's stores raise anything; the driver tells the last line
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
