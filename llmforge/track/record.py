"""One run's record in MLflow: every write to it, each safe to repeat.

In: a run folder with its plan, journal and files. Out: the MLflow run of that folder, made once
and continued later; `mlflow.json` in the folder remembers which one it is and how far the journal
was sent. Calls block and raise whatever MLflow raises; `mlflow.py` runs them beside the training.

MLflow is imported when a record is opened, never with this module. Only its client is used: no
active run, no autologging, no system metrics, and no weights are copied.
"""

from __future__ import annotations

import getpass
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from llmforge.origins import leaves
from llmforge.plan import Plan
from llmforge.run import environment, journal
from llmforge.run.folder import RunFolder
from llmforge.run.status import Status
from llmforge.track.address import absolute_uri, is_server, public
from llmforge.track.parent import parent_tags
from llmforge.track.store import (
    connect,
    experiment_id,
    run_exists,
    write_parameters,
    write_tags,
)

ENDINGS = {
    Status.FINISHED: "FINISHED",
    Status.FAILED: "FAILED",
    Status.INTERRUPTED: "KILLED",
    Status.PRUNED: "KILLED",
}
"""What MLflow calls the ways a run can end."""

EARLY = ("plan.json", "origins.json", "environment.json")
FILES = (
    *EARLY,
    "prepare.json",
    "data.html",
    "isolation.json",
    "samples.json",
    "result.json",
    "curve.png",
    "metrics.csv",
    "README.md",
    "push.json",
    "log.txt",
)
"""Files of the run folder that are kept as artifacts, when they are there."""

LONGEST_VALUE = 500
"""Characters of a parameter: what servers before MLflow 2.8 take."""
METRICS_PER_CALL = 1000


class MlflowRecord:
    """The record of one run folder."""

    def __init__(self, plan: Plan, run: RunFolder) -> None:
        tracking = plan.settings["tracking"]
        self.plan, self.run = plan, run
        self.uri = absolute_uri(tracking["uri"])
        self.experiment = str(tracking["experiment"])
        self._state: dict[str, Any] = {}
        self._sent: dict[str, int] = {}
        """Last step sent of each metric: a step that was run twice is sent once."""
        self._client: Any = None

    @property
    def run_id(self) -> str:
        """MLflow's id of the run; empty before `open`."""
        return str(self._state.get("run_id", ""))

    @property
    def address(self) -> str:
        """Where a person finds it."""
        if is_server(self.uri):
            place = f"experiments/{self._state.get('experiment_id')}/runs/{self.run_id}"
            return f"{self.uri.rstrip('/')}/#/{place}"
        return f"experiment `{self.experiment}` in {public(self.uri)}"

    @property
    def pending(self) -> bool:
        """Are there lines of the journal that were not sent?"""
        rows = journal.read(self.run.journal, int(self._state.get("offset", 0)))
        return next(iter(rows), None) is not None

    def open(self) -> None:
        """Make the run, or go on with the one that the folder remembers."""
        token = environment.secret(self.plan.settings["tracking"]["token"])
        self._client = connect(self.uri, token)
        state = self.run.read_json("mlflow.json") or {}
        same = state.get("uri") == public(self.uri) and state.get("experiment") == self.experiment
        if not (same and run_exists(self._client, str(state.get("run_id", "")))):
            state = self._create()
        self._state = {**state, "closed": None}
        self._remember()
        self._sent = {}
        for row, offset in journal.read(self.run.journal):
            if offset > self._state["offset"]:
                break
            self._sent |= dict.fromkeys(row.values, row.step)
        self._client.update_run(self.run_id, status="RUNNING")
        write_parameters(self._client, self.run_id, dict(parameters(self.plan.settings)))
        self._tags(self._opening_tags())
        self.artifacts(EARLY)

    def metrics(self) -> None:
        """Send what the journal has gained."""
        from mlflow.entities import Metric

        batch: list[Any] = []
        fresh: dict[str, int] = {}
        offset = int(self._state["offset"])
        for row, end in journal.read(self.run.journal, offset):
            for key, value in row.values.items():
                if row.step > fresh.get(key, self._sent.get(key, -1)):
                    fresh[key] = row.step
                    batch.append(Metric(key, value, row.time_ms, row.step))
            offset = end
            if len(batch) > METRICS_PER_CALL - 100:
                self._send(batch, fresh, offset)
                batch = []
        self._send(batch, fresh, offset)

    def artifacts(self, names: Sequence[str] = FILES) -> None:
        """Keep copies of files of the run folder; those that are missing are passed over."""
        for name in names:
            path = self.run.path / name
            if path.is_file():
                self._client.log_artifact(self.run_id, str(path))

    def artifact(self, path: Path, name: str) -> None:
        """Keep a copy of one file under `name`, a path with `/` whose last part is the file's."""
        folder, _, _ = name.rpartition("/")
        self._client.log_artifact(self.run_id, str(path), folder or None)

    def close(self, status: Status) -> None:
        """Send what is left and end the run; the folder then says with which status."""
        self.metrics()
        self.artifacts()
        self._model()
        found = self.run.record()
        ending = {"llmforge.status": status.value, "llmforge.reason": found.reason or ""}
        # the sweep's own run may have been made meanwhile
        self._tags(ending | parent_tags(self.run.path, self._state))
        if status is Status.CREATED:  # only its data are prepared
            self._client.update_run(self.run_id, status="SCHEDULED")
        else:
            self._client.set_terminated(self.run_id, ENDINGS[status])
        self._state["closed"] = status.value
        self._remember()

    # -- steps of the above --------------------------------------------------------------------

    def _create(self) -> dict[str, Any]:
        experiment = experiment_id(self._client, self.uri, self.experiment)
        made = self._client.create_run(experiment, run_name=self.plan.run_id)
        return {
            "uri": public(self.uri),
            "experiment": self.experiment,
            "experiment_id": experiment,
            "run_id": made.info.run_id,
            "offset": 0,
        }

    def _opening_tags(self) -> dict[str, str]:
        plan = self.plan
        recorded = self.run.read_json("environment.json") or {}
        commit = (recorded.get("git") or {}).get("commit", "")
        resharded = self.run.read_json("reshard.json") or {}
        return {
            "llmforge.fingerprint": plan.fingerprint,
            "llmforge.run_id": plan.run_id,
            "llmforge.folder": str(self.run.path),
            **parent_tags(self.run.path, self._state),
            "llmforge.version": plan.llmforge,
            **{f"llmforge.stage.{name}": digest for name, digest in plan.stages.items()},
            **{f"version.{name}": text for name, text in recorded.get("packages", {}).items()},
            **({"mlflow.source.git.commit": commit} if commit else {}),
            **{f"llmforge.resharded.{name}": str(told) for name, told in resharded.items()},
            "mlflow.source.name": "llmforge",
            "mlflow.source.type": "LOCAL",
            "mlflow.user": getpass.getuser(),
        }

    def _tags(self, tags: Mapping[str, str]) -> None:
        write_tags(self._client, self.run_id, tags)

    def _send(self, batch: Sequence[Any], fresh: Mapping[str, int], offset: int) -> None:
        if batch:
            self._client.log_batch(self.run_id, metrics=batch, synchronous=True)
            self._sent |= fresh  # only now: what fails is sent again
        if offset != self._state["offset"]:
            # A process killed between the two lines sends the batch again; MLflow keeps a metric
            # of the same key, step, time and value once.
            self._state["offset"] = offset
            self._remember()

    def _model(self) -> None:
        """Where the final model lies, with the digest of its manifest; no weights are copied."""
        if not self.run.manifest.is_file():
            return
        place = {
            "path": str(self.run.model),
            "manifest": str(self.run.manifest),
            "manifest_sha256": hashlib.sha256(self.run.manifest.read_bytes()).hexdigest(),
        }
        self._client.log_dict(self.run_id, place, "model/location.json")
        self._tags({"llmforge.model": place["path"]})

    def _remember(self) -> None:
        self.run.write_json("mlflow.json", self._state)


def parameters(settings: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Settings as MLflow parameters: dotted keys, texts of at most `LONGEST_VALUE` characters."""
    for key, value in leaves(settings):
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if len(text) > LONGEST_VALUE:
            digest = hashlib.sha256(text.encode()).hexdigest()[:16]
            tail = f"... ({len(text)} characters, sha256 {digest}; whole in plan.json)"
            text = text[: LONGEST_VALUE - len(tail)] + tail
        yield key[:250], text
