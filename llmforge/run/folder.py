"""The run folder: everything a run leaves behind, and who may write there.

In: a plan, or the path of a folder made from one. Out: `RunFolder`, the one place that knows the
names of the files in it:

    plan.json origins.json      what was to happen, and who set each value
    status.json                 what is happening; rewritten whole, never half
    log.txt log-rank1.txt ...   output of each process, attempt after attempt
    environment.json            machine, versions, commit
    metrics.jsonl               journal of every number
    prepare.json samples.json   what became of the rows; answers of the final model
    checkpoints/checkpoint-N    resumable states
    model/ manifest.json        final model with its tokenizer; sizes and digests, written last
    result.json curve.png       outcome
    README.md metrics.csv       model card; one row for each recorded step
    push.json                   uploads to the hub, and why some failed
    evaluations/NAME.json       measured again later, with the plan of it beside
    mlflow.json                 the run in MLflow, and how much of the journal is there

Finding run folders by name is in `ledger.py`. No torch, no Hydra.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmforge.plan import Plan
from llmforge.run import checkpoints, processes
from llmforge.run.checkpoints import Checkpoint
from llmforge.run.status import Status, StatusRecord, is_alive, timestamp

_status_lock = threading.RLock()
"""The tracker's thread and the training loop of one process both write statuses."""


class RunBusy(RuntimeError):
    """Another process works in the folder."""


class RunFolder:
    """`<paths.runs>/<run id>/`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    # -- names ---------------------------------------------------------------------------------

    @property
    def run_id(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def plan_file(self) -> Path:
        """The plan the newest attempt runs."""
        return self.path / "plan.json"

    @property
    def journal(self) -> Path:
        """Every number, in the order it was measured."""
        return self.path / "metrics.jsonl"

    @property
    def model(self) -> Path:
        """The final model; only a folder with a manifest beside it is whole."""
        return self.path / "model"

    @property
    def manifest(self) -> Path:
        """Size and SHA-256 of every file of `model/`; written last."""
        return self.path / "manifest.json"

    @property
    def checkpoint_folder(self) -> Path:
        """Parent of the `checkpoint-N` folders."""
        return self.path / "checkpoints"

    def log(self, rank: int = 0) -> Path:
        """Where the output of a process goes."""
        return self.path / ("log.txt" if rank == 0 else f"log-rank{rank}.txt")

    def failure(self, rank: int) -> Path:
        """Where a rank other than 0, or another stage than `train`, says why it died."""
        return self.path / f"failure-rank{rank}.json"

    # -- making and opening --------------------------------------------------------------------

    @classmethod
    def create(cls, plan: Plan) -> RunFolder:
        """The plan's folder, made when missing; its `plan.json` is the plan given now.

        A folder of the same fingerprint may have been made by a plan with other bookkeeping
        (paths, intervals, tracking); that one is kept as `plan.<attempt>.json`.
        """
        run = cls(plan.run_folder)
        run.path.mkdir(parents=True, exist_ok=True)
        text = plan.to_json()
        if run.plan_file.is_file() and run.plan_file.read_text(encoding="utf-8") != text:
            run.plan_file.replace(run.path / f"plan.{run.record().attempts}.json")
        plan.save(run.plan_file)
        run.write_json("origins.json", plan.origins.to_dict())
        if not (run.path / "status.json").is_file():
            run.set_status(Status.CREATED)
        return run

    @classmethod
    def open(cls, path: str | Path) -> RunFolder:
        """An existing run folder.

        Raises:
            FileNotFoundError: there is no `plan.json` in it.
        """
        run = cls(path)
        if not run.plan_file.is_file():
            raise FileNotFoundError(f"{run.path} is no run folder: it has no plan.json")
        return run

    def plan(self) -> Plan:
        """Raises `PlanUnreadable` for a plan of another version."""
        return Plan.load(self.plan_file)

    # -- status --------------------------------------------------------------------------------

    def record(self) -> StatusRecord:
        """`status.json`; a RUNNING whose process is gone is told as FAILED (LF804)."""
        found = self._written()
        if found.status is Status.RUNNING and not is_alive(found):
            return replace(
                found,
                status=Status.FAILED,
                code="LF804",
                reason="its process is gone without a word: killed, or the machine went down",
            )
        return found

    def status(self) -> Status:
        """Where the run stands; see `record`."""
        return self.record().status

    def _written(self) -> StatusRecord:
        data = self.read_json("status.json")
        return StatusRecord.from_dict(data) if data else StatusRecord(Status.CREATED)

    def set_status(self, status: Status, **changes: Any) -> StatusRecord:
        """Rewrite `status.json`; fields that are not named keep their value."""
        with _status_lock:
            found = replace(self._written(), status=status, updated=timestamp(), **changes)
            self.write_json("status.json", found.to_dict())
        return found

    def set_running(self, stage: str, attempt: int | None = None) -> StatusRecord:
        """This process takes the run over; `attempt` counts starts by the launcher as well."""
        counted = {} if attempt is None else {"attempts": attempt}
        return self.set_status(
            Status.RUNNING,
            stage=stage,
            pid=os.getpid(),
            born=processes.born(os.getpid()),
            host=platform.node(),
            reason=None,
            code=None,
            diagnostic=None,
            warnings=(),
            **counted,
        )

    def warn(self, diagnostic: Mapping[str, Any]) -> None:
        """Keep a warning in the status, once."""
        with _status_lock:
            found = self._written()
            if diagnostic not in found.warnings:
                self.set_status(found.status, warnings=(*found.warnings, dict(diagnostic)))

    def result(self) -> dict[str, Any] | None:
        """`result.json`, or None while there is none."""
        return self.read_json("result.json")

    # -- checkpoints ---------------------------------------------------------------------------

    def checkpoints(self) -> list[Checkpoint]:
        """Checkpoints that look whole by their sizes, newest first."""
        return [found for found in checkpoints.scan(self.checkpoint_folder) if not found.fault]

    # -- files ---------------------------------------------------------------------------------

    def read_json(self, name: str) -> dict[str, Any] | None:
        """A JSON file of the folder; None when it is missing."""
        try:
            text = (self.path / name).read_text(encoding="utf-8")
        except FileNotFoundError:
            return None
        found: dict[str, Any] = json.loads(text)
        return found

    def write_json(self, name: str, value: Any) -> Path:
        """Write a JSON file of the folder; it appears whole or not at all.

        A name with `/` is one of a folder below, which is made when it is missing.
        """
        target = self.path / name
        target.parent.mkdir(exist_ok=True)
        # two threads of one process may write at once: the tracker warns while training goes on
        staged = target.with_name(f".{target.name}.{os.getpid()}.{time.monotonic_ns()}.tmp")
        text = json.dumps(value, indent=2, ensure_ascii=False, default=str)
        staged.write_text(text + "\n", encoding="utf-8")
        staged.replace(target)
        return target

    @contextmanager
    def lock(self, patience: float = 1.0, node: int = 0) -> Iterator[int]:
        """Hold the folder; yields a file descriptor that a worker may inherit.

        The lock belongs to the open file, so a worker that inherits the descriptor keeps the
        folder held even when its driver is killed. Nodes other than 0 hold it beside node 0.

        Raises:
            RunBusy: somebody else holds it for longer than `patience` seconds.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        name = f".lock.node{node}" if node else ".lock"
        handle = os.open(self.path / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            deadline = time.monotonic() + patience
            while True:
                try:
                    fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() >= deadline:
                        raise RunBusy(f"{self.path} is held by another process") from error
                    time.sleep(0.05)
            yield handle
        finally:
            os.close(handle)

    def __repr__(self) -> str:
        return f"RunFolder({str(self.path)!r})"
