"""Measure the model of a run once more, with data and metrics of now: `llmforge evaluate --run`.

In: a run folder, a plan made for measuring (`compiler/again.py`), and what to measure. Out: beside
the run `evaluations/<name>.plan.json` and, once the worker is through, `evaluations/<name>.json`;
the run's own `result.json` stays as it is. The figures also go to the run's journal, and with it to
its tracker, as `evaluations/<name>/eval_loss` and so on.

The worker reads its `Request` from its environment. No torch here.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run.folder import RunFolder
from llmforge.run.journal import Journal
from llmforge.run.status import timestamp

FOLDER = "evaluations"
VARIABLE = "LLMFORGE_EVALUATION"
"""Environment variable that carries the request to the worker."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


@dataclass(frozen=True)
class Request:
    """What the worker is asked."""

    name: str
    model: str
    """Folder of the weights: the final model, or a checkpoint."""
    which: str
    """`final`, or the checkpoint's step, for people."""
    step: int
    """Optimizer steps behind the weights."""
    tasks: tuple[str, ...] = ()
    """Names of benchmark tasks of lm-eval."""
    folders: tuple[str, ...] = ()
    """Where task files of the user's own lie."""
    trusted: bool = False
    """May code that task files name be run?"""

    def variables(self) -> dict[str, str]:
        """For the worker's environment."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def received(cls) -> Request | None:
        """The request of this process; None where it was asked nothing special."""
        text = os.environ.get(VARIABLE)
        if not text:
            return None
        found = json.loads(text)
        lists = {name: tuple(found[name]) for name in ("tasks", "folders")}
        return cls(**{**found, **lists})


def is_name(name: str) -> bool:
    """Can an evaluation have this name?"""
    return bool(_NAME.fullmatch(name)) and not name.endswith(".plan")


def results_file(run: RunFolder, name: str) -> Path:
    """Where the figures are written."""
    return run.path / FOLDER / f"{name}.json"


def plan_file(run: RunFolder, name: str) -> Path:
    """The plan of an evaluation."""
    return run.path / FOLDER / f"{name}.plan.json"


def free_name(run: RunFolder) -> str:
    """The first number that names no evaluation of the run."""
    number = 1
    while results_file(run, str(number)).exists() or plan_file(run, str(number)).exists():
        number += 1
    return str(number)


def measurements(run: RunFolder) -> dict[str, dict[str, Any]]:
    """Every finished evaluation of the run by name."""
    found = sorted(path for path in (run.path / FOLDER).glob("*.json") if _is_result(path))
    return {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in found}


def _is_result(path: Path) -> bool:
    return not path.name.endswith(".plan.json") and not path.name.startswith(".")


def keep_figures(
    run: RunFolder, plan: Plan, request: Request, figures: Mapping[str, Any]
) -> dict[str, Any]:
    """Write the results and add them to the journal.

    Returns:
        What was written.
    """
    found = {
        "name": request.name,
        "run_id": run.run_id,
        "checkpoint": request.which,
        "step": request.step,
        "overrides": plan.overrides,
        "fingerprint": plan.stages["evaluate"],
        "time": timestamp(),
        **figures,
    }
    run.write_json(f"{FOLDER}/{request.name}.json", found)
    numbers = {
        f"{FOLDER}/{request.name}/{key}": value
        for key, value in flat(figures)
        if isinstance(value, int | float) and not isinstance(value, bool)
    }
    journal = Journal(run.journal)
    journal.append(numbers, request.step)
    journal.close()
    return found


def flat(figures: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Nested figures with their names joined by `/`."""
    found: list[tuple[str, Any]] = []
    for key, value in figures.items():
        if isinstance(value, Mapping):
            found += flat(value, f"{prefix}{key}/")
        else:
            found.append((f"{prefix}{key}", value))
    return found
