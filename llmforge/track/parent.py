"""The run of a sweep, or of a chain of stages, in MLflow: parent of other runs.

In: a sweep's folder, and what `report/record.py` has to say of it; or a chain's, and what
`chain.py` has. Out: one MLflow run, made once and continued by whoever drives the sweep or chain
next; `mlflow.json` in the folder remembers which one it is. Trials find it there, runs of a chain
in a file of their own (`parent_tags`), so nothing of it stands in a plan. Calls block and raise
whatever MLflow raises; each is safe to repeat.
"""

from __future__ import annotations

import getpass
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge.run import environment
from llmforge.track.address import absolute_uri, public
from llmforge.track.store import (
    connect,
    experiment_id,
    run_exists,
    write_parameters,
    write_tags,
)

FILE = "mlflow.json"
"""In the sweep's folder."""
LINK = "parent.json"
"""In the folder of a run that is a stage of a chain: the chain's run."""
METRICS_PER_CALL = 1000

Point = tuple[str, float, int, int]
"""Metric, value, step, milliseconds since 1970."""


def parent_tags(trial: Path, state: Mapping[str, Any]) -> dict[str, str]:
    """What ties a trial's run to its sweep's, or a run to the chain that did it: empty for a run by
    itself, or for one that is recorded elsewhere than its parent.

    Args:
        trial: the run folder.
        state: `uri` and `experiment` of the trial's own record.
    """
    if (trial.parent / "sweep.json").is_file():
        parent, found = read_state(trial.parent), {"llmforge.sweep": trial.parent.name}
    elif parent := _read(trial / LINK):
        found = {"llmforge.chain": str(parent.get("name", "")), "llmforge.stage": "train"}
    else:
        return {}
    if all(parent.get(part) == state.get(part) for part in ("uri", "experiment")):
        found["mlflow.parentRunId"] = str(parent.get("run_id", ""))
    return found


def read_state(folder: Path) -> dict[str, Any]:
    """`mlflow.json` of a sweep's folder; empty while there is none."""
    return _read(folder / FILE)


def _read(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found


class ParentRecord:
    """The record of one sweep's folder, or one chain's."""

    def __init__(
        self, folder: Path, name: str, tracking: Mapping[str, Any], kind: str = "sweep"
    ) -> None:
        """
        Args:
            name: what MLflow's pages call the run.
            tracking: the section of a trial's plan.
            kind: what it is the parent of: `sweep` or `chain`.
        """
        self.folder, self.name, self.kind = folder, name, kind
        self.uri = absolute_uri(tracking["uri"])
        self.experiment = str(tracking["experiment"])
        self._token = environment.secret(tracking["token"])
        self._state: dict[str, Any] = {}
        self._client: Any = None

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty before `open`."""
        return str(self._state.get("run_id", ""))

    @property
    def told(self) -> int:
        """How many points of its series were sent before."""
        return int(self._state.get("told", 0))

    def open(self) -> None:
        """Make the run, or go on with the one that the folder remembers; it is RUNNING then."""
        self._client = connect(self.uri, self._token)
        state = read_state(self.folder)
        same = state.get("uri") == public(self.uri) and state.get("experiment") == self.experiment
        if not (same and run_exists(self._client, str(state.get("run_id", "")))):
            experiment = experiment_id(self._client, self.uri, self.experiment)
            made = self._client.create_run(experiment, run_name=self.name)
            state = {
                "uri": public(self.uri),
                "experiment": self.experiment,
                "experiment_id": experiment,
                "run_id": made.info.run_id,
                "told": 0,
            }
        self._state = {**state, "closed": None}
        self._remember()
        self._client.update_run(self.run_id, status="RUNNING")
        self.tags(
            {
                f"llmforge.{self.kind}": self.name,
                "llmforge.folder": str(self.folder),
                "mlflow.source.name": f"llmforge {self.kind}",
                "mlflow.source.type": "LOCAL",
                "mlflow.user": getpass.getuser(),
            }
        )

    def child(self, key: str, name: str, began: int, tags: Mapping[str, str]) -> tuple[str, Any]:
        """A run below this one, made once for each `key`: its id, and a client for it.

        Args:
            key: tells children apart; remembered in the folder.
            name: what MLflow's pages call it.
            began: milliseconds since 1970.
        """
        known: dict[str, str] = self._state.setdefault("children", {})
        if not run_exists(self._client, known.get(key, "")):
            made = self._client.create_run(
                str(self._state["experiment_id"]),
                start_time=began,
                run_name=name,
                tags={"mlflow.parentRunId": self.run_id, **tags},
            )
            known[key] = str(made.info.run_id)
            self._remember()
        return known[key], self._client

    def link(self, run: Path, again: bool) -> None:
        """Tie a run of the chain to this one, by a file in its folder; `again` also one that is
        tied to another."""
        if not run.is_dir() or ((run / LINK).is_file() and not again):
            return
        places = {part: self._state[part] for part in ("uri", "experiment", "run_id")}
        staged = run / f".{LINK}.{os.getpid()}.tmp"
        staged.write_text(json.dumps({"name": self.name, **places}) + "\n", encoding="utf-8")
        staged.replace(run / LINK)

    def tags(self, tags: Mapping[str, str]) -> None:
        """Set tags, which may change."""
        write_tags(self._client, self.run_id, tags)

    def parameters(self, wanted: Mapping[str, str]) -> None:
        """Set what the sweep is."""
        write_parameters(self._client, self.run_id, wanted)

    def metrics(self, points: Sequence[Point], told: int) -> None:
        """Send numbers; `told` of the series are known afterwards."""
        from mlflow.entities import Metric

        for start in range(0, len(points), METRICS_PER_CALL):
            part = [Metric(key, value, time, step) for key, value, step, time in
                    points[start : start + METRICS_PER_CALL]]  # fmt: skip
            self._client.log_batch(self.run_id, metrics=part, synchronous=True)
        # A process killed here sends them again; MLflow keeps a point that it has once.
        self._state["told"] = told
        self._remember()

    def file(self, path: Path) -> None:
        """Keep a copy of one file."""
        self._client.log_artifact(self.run_id, str(path))

    def files(self, folder: Path) -> None:
        """Keep copies of all files of a folder."""
        self._client.log_artifacts(self.run_id, str(folder))

    def adopt(self, trial: Path) -> None:
        """Tie the run of a trial that began before this one was made."""
        state = read_state(trial)
        tags = parent_tags(trial, state)
        run_id = str(state.get("run_id", ""))
        if "mlflow.parentRunId" not in tags or not run_exists(self._client, run_id):
            return
        known = self._client.get_run(run_id).data.tags
        if any(known.get(key) != value for key, value in tags.items()):
            write_tags(self._client, run_id, tags)

    def close(self, status: str) -> None:
        """End the run; `status` is one of MLflow's."""
        self._client.set_terminated(self.run_id, status)
        self._state["closed"] = status
        self._remember()

    def _remember(self) -> None:
        staged = self.folder / f".{FILE}.{os.getpid()}.tmp"
        staged.write_text(json.dumps(self._state, indent=2) + "\n", encoding="utf-8")
        staged.replace(self.folder / FILE)
