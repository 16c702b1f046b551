"""The tiny plan of `tests/run`, and run folders that look as if something had run in them."""

from __future__ import annotations

import importlib.util
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmforge.plan import Plan
from llmforge.run import environment
from llmforge.run.folder import RunFolder
from llmforge.run.journal import Journal

# test folders are no packages, so the neighbour's fixtures are loaded by path
_spec = importlib.util.spec_from_file_location(
    "llmforge_run_fixtures", Path(__file__).parents[1] / "run" / "conftest.py"
)
assert _spec
assert _spec.loader
_module = importlib.util.module_from_spec(_spec)
sys.modules[_spec.name] = _module
_spec.loader.exec_module(_module)

bench_folder = _module.bench_folder
tiny = _module.tiny


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with its tables: making them takes seconds, copying them none."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def plan(tiny: Callable[..., Plan], work: Path, empty_database: Path) -> Plan:
    """Recorded in a database of the test's own."""
    shutil.copy(empty_database, work / "mlflow.db")
    return tiny(f"tracking.uri=sqlite:///{work}/mlflow.db")


@pytest.fixture
def make_run() -> Callable[[Plan], RunFolder]:
    """A run folder with ten steps in its journal."""

    def make(plan: Plan) -> RunFolder:
        run = RunFolder.create(plan)
        run.set_running("train")
        run.write_json("environment.json", environment.describe(plan))
        run.log().write_text("a log\n", encoding="utf-8")
        journal = Journal(run.journal)
        journal.attempt(1, 0)
        for step in range(1, 11):
            journal.append({"train_loss": 10.0 - step, "learning_rate": 1e-3}, step)
        return run

    return make
