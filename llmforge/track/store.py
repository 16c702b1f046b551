"""MLflow's store: reached, and made when it is missing.

In: a tracking address. Out: MLflow's client on it, and the id of an experiment. MLflow is imported
here, by the call, never with the module. What is written to the store is `record.py`'s business.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from llmforge.track.address import artifact_location, one_at_a_time


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
