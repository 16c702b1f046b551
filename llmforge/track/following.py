"""Models follow the run: versions registered and weights uploaded while it trains.

In: a run folder in which checkpoints appear and go, and its record in MLflow. Out: versions
(`registry.py`) and artifacts, as `tracking.registered_model` and `tracking.upload` ask for;
`versions.json` in the folder says what is there already. Called by the tracker's thread. What fails
is a warning (LF910, LF911), once for each kind, and is tried again with the next news: training
never waits for it and never ends by it.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.plan import Plan
from llmforge.run import environment
from llmforge.run.folder import RunFolder
from llmforge.track.registry import (
    FINAL,
    RunVersions,
    State,
    artifact_place,
    states,
    upload_state,
)
from llmforge.track.versions import Registry

logger = logging.getLogger(__name__)

FILE = "versions.json"


class ModelFollower:
    """Brings MLflow's registry and artifacts up to what the run folder holds."""

    def __init__(self, plan: Plan, run: RunFolder) -> None:
        tracking = plan.settings["tracking"]
        self._plan, self._run = plan, run
        self._name: str | None = tracking["registered_model"]
        self._upload = str(tracking["upload"])
        self._uri, self._token = str(tracking["uri"]), tracking["token"]
        self._registry: Registry | None = None
        self._warned: set[str] = set()
        self.busy = False
        """Are weights being uploaded? Whoever waits for the end should wait for that, too."""

    @property
    def idle(self) -> bool:
        """Is there nothing to do for this plan?"""
        return self._name is None and self._upload == "none"

    def follow(self, mlflow_run: str) -> bool:
        """Do what is to be done now; False if something failed and should be tried again."""
        if self.idle:
            return True
        try:
            found = states(self._run)
        except OSError:
            return False  # a checkpoint was pruned while it was looked at
        known = self._run.read_json(FILE) or {}
        seals = {artifact_place(state): state.seal for state in found}
        done = True
        if self._name is not None and (known.get("name"), known.get("seals")) != (
            self._name,
            seals,
        ):
            done = self._registered(known, seals, mlflow_run)
        for state in found:
            if self._is_to_upload(state, known):
                done = self._uploaded(state, known, mlflow_run) and done
        return done

    def finish(self, mlflow_run: str, deadline: float, pause: float) -> None:
        """Follow until all is done, or the deadline (monotonic seconds) has passed."""
        while not self.follow(mlflow_run) and time.monotonic() < deadline:
            time.sleep(pause)

    def _registered(self, known: dict[str, Any], seals: dict[str, str], mlflow_run: str) -> bool:
        try:
            self._versions(mlflow_run).sync()
        except Exception as error:
            self._warn("LF910", "the versions were not registered", error)
            return False
        known |= {"name": self._name, "seals": seals}
        self._run.write_json(FILE, known)
        return True

    def _is_to_upload(self, state: State, known: dict[str, Any]) -> bool:
        wanted = self._upload == "checkpoints" or (self._upload == "final" and state.kind == FINAL)
        return wanted and known.get("uploaded", {}).get(artifact_place(state)) != state.seal

    def _uploaded(self, state: State, known: dict[str, Any], mlflow_run: str) -> bool:
        place = artifact_place(state)
        self.busy = True
        try:
            upload_state(self._connected(), self._run, state, mlflow_run)
            if self._name is not None:
                self._versions(mlflow_run).uploaded(state)
        except Exception as error:
            self._warn("LF911", f"the weights of {place} were not uploaded", error)
            return False
        finally:
            self.busy = False
        known["uploaded"] = {**known.get("uploaded", {}), place: state.seal}
        self._run.write_json(FILE, known)
        return True

    def _connected(self) -> Registry:
        if self._registry is None:
            self._registry = Registry(self._uri, environment.secret(self._token))
        return self._registry

    def _versions(self, mlflow_run: str) -> RunVersions:
        assert self._name is not None  # noqa: S101 - callers looked
        return RunVersions(self._connected(), self._plan, self._run, self._name, mlflow_run)

    def _warn(self, code: str, what: str, error: BaseException) -> None:
        if code in self._warned:
            return
        self._warned.add(code)
        said = f"{type(error).__name__}: {error}"
        text = " ".join(environment.scrub(said, self._plan).split())[:300]
        key = "tracking.registered_model" if code == "LF910" else "tracking.upload"
        name = self._name or "NAME"
        again = f"llmforge register {self._run.run_id} {name}"
        diagnostic = Diagnostic(
            code,
            f"{what}: {text}",
            severity=Severity.WARNING,
            key=key,
            origins=self._plan.origins.chain(key),
            notes=("training goes on without it; the weights lie in the run folder",),
            hint=again if code == "LF910" else f"{again} tracking.upload={self._upload}",
        )
        logger.warning("%s: %s", diagnostic.code, diagnostic.message)
        self._run.warn(diagnostic.to_dict())
