"""A sweep's folder as a driver leaves it: real points, real plans, journals made by a formula."""

from __future__ import annotations

import importlib.util
import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmforge.run.folder import RunFolder
from llmforge.run.journal import Journal
from llmforge.run.status import Status
from llmforge.sweep.definition import define
from llmforge.sweep.folder import SweepFolder
from llmforge.sweep.preflight import Point, examine, grid, plan_of

# test folders are no packages, so the neighbour's fixtures are loaded by path
_spec = importlib.util.spec_from_file_location(
    "llmforge_run_fixtures", Path(__file__).parents[1] / "run" / "conftest.py"
)
assert _spec
assert _spec.loader
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)

TINY: tuple[str, ...] = _module.TINY

GRID = ("lora=none,small", "optimizer.lr=1e-3,3e-3", "collator.max_length=64,1000000")
"""Eight points; the long ones are refused, since the model sees 128 tokens."""

SAMPLES = [{"prompt": "2 and 2?", "answer": "5", "reference": "4", "match": False}]


def train(run: RunFolder, final: float, steps: int = 12) -> None:
    """What a training of these steps leaves behind."""
    journal = Journal(run.journal)
    journal.attempt(1, 0)
    for step in range(1, steps + 1):
        loss = final + 2 * math.exp(-step / 4)
        values = {"train_loss": loss, "learning_rate": 1e-3, "tokens_per_second": 900.0 + step}
        journal.append(values, step)
        if step % 4 == 0:
            journal.append({"eval_loss": loss + 0.1}, step)
    journal.close()
    result: dict[str, Any] = {
        "run_id": run.run_id,
        "train_loss": final,
        "eval_loss": final + 0.1,
        "steps": steps,
        "seconds": 3.5,
        "baseline": {"eval_loss": 7.0},
    }
    run.write_json("result.json", result)
    run.write_json("samples.json", SAMPLES)
    run.log().write_text("a log\n", encoding="utf-8")
    run.set_status(Status.FINISHED)


@pytest.fixture
def make_sweep(work: Path) -> Callable[..., SweepFolder]:
    """`make_sweep("tracking=none")`: all points but the last were run; the second failed."""

    def make(*overrides: str, name: str = "planted") -> SweepFolder:
        definition = define([*TINY, *GRID, f"sweep.name={name}", *overrides])
        points = examine(definition, grid(definition))
        folder = SweepFolder(definition.folder)
        folder.claim(definition)
        folder.write_points([point.to_dict() for point in points])
        ready: list[Point] = [point for point in points if point.runs]
        for number, point in enumerate(ready):
            run = RunFolder.create(plan_of(definition, point))
            if number == 1:
                run.set_status(Status.FAILED, code="LF803", reason="loss is nan at step 3")
            elif number < 3:
                train(run, 3.0 + number / 10)
        return folder

    return make


@pytest.fixture
def planted(make_sweep: Callable[..., SweepFolder]) -> SweepFolder:
    """The sweep, recorded nowhere."""
    return make_sweep("tracking=none")


def poison(folder: SweepFolder, text: str) -> None:
    """Put a text wherever a name or a text of a user may stand."""
    definition = folder.read()
    definition["name"] = text
    definition["objectives"] = {text: "minimize"}
    definition["space"] = {text: "1,2", **definition["space"]}
    folder.write(definition)
    points = folder.points()
    for number, point in enumerate(points):
        point["values"] = {text: f"{text}{number % 2}", **point["values"]}
        point["reasons"] = [text for _ in point["reasons"]]
    folder.write_points(points)
    for place in folder.path.glob("*/plan.json"):
        run = RunFolder(place.parent)
        run.set_status(run.status(), reason=text)
        run.write_json("samples.json", [{"prompt": text, "answer": text, "reference": text}])
        result = run.result()
        if result:
            run.write_json("result.json", {**result, text: result["train_loss"]})
            journal = Journal(run.journal)
            journal.append({text: 1.0}, 4)
            journal.append({text: 2.0}, 8)
            journal.close()
        plan = json.loads(place.read_text(encoding="utf-8"))
        plan["settings"]["name"] = text
        place.write_text(json.dumps(plan), encoding="utf-8")


@pytest.fixture
def poisoned(planted: SweepFolder) -> Callable[[str], SweepFolder]:
    """`poisoned("<b>")`: the sweep with a text in every place."""

    def make(text: str) -> SweepFolder:
        poison(planted, text)
        return planted

    return make


@pytest.fixture
def tiny_overrides() -> tuple[str, ...]:
    """The settings of a run of seconds."""
    return TINY
