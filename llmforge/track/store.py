"""MLflow's store: reached, and made when it is missing.

In: a tracking address. Out: MLflow's client on it, and the id of an experiment. MLflow is imported
here, by the call, never with the module. What is written to the store is `record.py`'s business.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmforge.track.address import artifact_location, one_at_a_time

ITEMS_PER_CALL = 100
"""Parameters or tags that a server takes at a time."""


def connect(uri: str, token: str | None) -> Any:
    """A client; a local database is made when missing. Raises what MLflow raises."""
    if token:
        os.environ["MLFLOW_TRACKING_TOKEN"] = token
    from mlflow.tracking import MlflowClient

    quieten()  # after the import, which sets levels of its own
    with one_at_a_time(uri):
        create_database(uri)
        client = MlflowClient(uri)
        client.search_experiments(max_results=1)
    return client


def experiment_id(client: Any, uri: str, name: str) -> str:
    """The experiment of this name, made when missing and brought back when deleted."""
    from mlflow.exceptions import MlflowException

    with one_at_a_time(uri):
        found = client.get_experiment_by_name(name)
        if found is None:
            try:
                return str(client.create_experiment(name, artifact_location(uri, name)))
            except MlflowException:
                # another process was faster; if that was not it, the next line says so
                found = client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            client.restore_experiment(found.experiment_id)
        return str(found.experiment_id)


def run_exists(client: Any, run_id: str) -> bool:
    """Is there such a run, and was it not deleted?"""
    from mlflow.exceptions import MlflowException

    if not run_id:
        return False
    try:
        return bool(client.get_run(run_id).info.lifecycle_stage == "active")
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return False
        raise


def write_tags(client: Any, run_id: str, tags: Mapping[str, str]) -> None:
    """Set tags; those without a text are left out."""
    from mlflow.entities import RunTag

    items = [RunTag(key, value) for key, value in tags.items() if value]
    for start in range(0, len(items), ITEMS_PER_CALL):
        part = items[start : start + ITEMS_PER_CALL]
        client.log_batch(run_id, tags=part, synchronous=True)


def write_parameters(client: Any, run_id: str, wanted: Mapping[str, str]) -> None:
    """Set parameters. They cannot be changed in MLflow: what is another now becomes a tag."""
    from mlflow.entities import Param

    known = client.get_run(run_id).data.params
    fresh = [Param(key, value) for key, value in wanted.items() if key not in known]
    for start in range(0, len(fresh), ITEMS_PER_CALL):
        part = fresh[start : start + ITEMS_PER_CALL]
        client.log_batch(run_id, params=part, synchronous=True)
    changed = {
        f"llmforge.changed.{key}": value
        for key, value in wanted.items()
        if key in known and known[key] != value
    }
    write_tags(client, run_id, changed)


def create_database(uri: str) -> None:
    """Make a local database whole or not at all.

    MLflow makes its tables over a second or two, and cannot open a database in which it was killed
    half-way; so the tables are made beside the place and moved there.
    """
    target = Path(uri.removeprefix("sqlite:///"))
    if not uri.startswith("sqlite:////") or (target.is_file() and target.stat().st_size):
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    target.parent.mkdir(parents=True, exist_ok=True)
    for left in target.parent.glob(f".{target.name}.*.tmp*"):
        left.unlink()  # of a process that was killed; the lock says that none is at it now
    staged = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    location = artifact_location(uri, "Default")
    SqlAlchemyStore(f"sqlite:///{staged}", location).engine.dispose()
    staged.replace(target)


def quieten() -> None:
    """Keep the libraries' chatter (migrations, run links) out of the log."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
