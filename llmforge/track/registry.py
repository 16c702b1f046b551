"""A run's checkpoints and final model as versions of a registered model, each made once.

In: a run folder and its record in MLflow. Out: a version for each sealed checkpoint that is kept
and for the final model, with tags (step, metrics, fingerprint, adapter or full, base, folder), and
the aliases `best` and `last`. `sync` may be called at any time: it makes what is missing, brings
tags up to date, and takes out the versions of checkpoints that were pruned, unless they were
uploaded or somebody has given them an alias; those stay, marked `llmforge.state=pruned`.

A version's source is its folder (a server takes no path of another machine: there it is a place
among the run's artifacts, and the folder stands in a tag). Weights are copied only as
`tracking.upload` says. Versions are read in `versions.py`.
"""

from __future__ import annotations

import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from llmforge.plan import Plan
from llmforge.run import journal, sealing
from llmforge.run.choice import best_step
from llmforge.run.folder import RunFolder
from llmforge.track.address import is_server
from llmforge.track.versions import METRIC, TAG, UPLOADED, Registry, Version

CHECKPOINT, FINAL = "checkpoint", "final"
BEST, LAST = "best", "last"
_OURS = {BEST, LAST}

_STATE = ("optimizer", "scheduler", "scaler", "rng_state", "trainer_state", "training_args")
"""Beginnings of names of files that only resuming needs: they are not uploaded."""

_BETTER: dict[str, Callable[[float, float], bool]] = {
    "minimize": lambda new, old: new < old,
    "maximize": lambda new, old: new > old,
}


@dataclass(frozen=True)
class State:
    """One set of weights that a run has on disk."""

    kind: str
    step: int
    folder: Path
    seal: str
    """SHA-256 of its manifest."""

    @property
    def key(self) -> tuple[str, int]:
        """What it is within its run; a final model is one, whatever its step."""
        return self.kind, self.step if self.kind == CHECKPOINT else 0


def states(run: RunFolder) -> list[State]:
    """The sealed checkpoints and the final model, oldest first."""
    found = [
        State(CHECKPOINT, one.step, one.path, _digest(one.path / sealing.MANIFEST))
        for one in reversed(run.checkpoints())
    ]
    result = run.result()
    if run.manifest.is_file() and result is not None:
        step = int(result.get("steps") or 0)
        found.append(State(FINAL, step, run.model, _digest(run.manifest)))
    return found


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def register_run(registry: Registry, run: RunFolder, name: str, upload: str = "none") -> list[int]:
    """Register a run after the fact, under any name.

    Args:
        registry: where.
        run: with checkpoints or a final model.
        name: of the registered model.
        upload: `none`, `final` or `checkpoints`, as `tracking.upload`; needs the run's record in
            MLflow, among whose artifacts the weights go.

    Returns:
        Its versions, oldest first.

    Raises:
        MlflowException, OSError: the registry did not take it.
        LookupError: weights are to be uploaded, and the run has no record in MLflow.
    """
    recorded = (run.read_json("mlflow.json") or {}).get("run_id")
    writer = RunVersions(registry, run.plan(), run, name, recorded)
    made = writer.sync()
    for state in states(run):
        if upload == "checkpoints" or (upload == "final" and state.kind == FINAL):
            if recorded is None:
                raise LookupError(f"run {run.run_id} has no record in MLflow to upload to")
            upload_state(registry, run, state, recorded)
            writer.uploaded(state)
    return made


def upload_state(registry: Registry, run: RunFolder, state: State, mlflow_run: str) -> None:
    """Copy a state's files to the artifacts of the run's record."""
    place = artifact_place(state)
    for path in files_to_upload(state):
        below = path.parent.relative_to(state.folder).as_posix()
        folder = place if below == "." else f"{place}/{below}"
        registry.client.log_artifact(mlflow_run, str(path), folder)
    if state.kind == FINAL:
        registry.client.log_artifact(mlflow_run, str(run.plan_file), place)


class RunVersions:
    """The versions of one run under one name."""

    def __init__(
        self, registry: Registry, plan: Plan, run: RunFolder, name: str, mlflow_run: str | None
    ) -> None:
        self._registry, self._plan, self._run = registry, plan, run
        self.name = name
        self._mlflow_run = mlflow_run

    def sync(self) -> list[int]:
        """Make the registry agree with the run folder; returns the run's versions.

        Raises:
            MlflowException, OSError: the registry did not take it; what was done is done.
        """
        wanted = states(self._run)
        if not wanted:
            return []
        self._make_name()
        known = self._registry.versions(self.name)
        mine = {self._key(one): one for one in known if self._is_mine(one)}
        made: dict[tuple[str, int], int] = {}
        for state in wanted:
            version = mine.pop(state.key, None)
            made[state.key] = self._make(state) if version is None else self._renew(version, state)
        for gone in mine.values():
            self._take_out(gone)
        self._point(wanted, made, known)
        return sorted(made.values())

    # -- one version ---------------------------------------------------------------------------

    def _make_name(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._registry.client.create_registered_model(self.name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise

    def _is_mine(self, version: Version) -> bool:
        """Of this run folder, whichever record of it made the version."""
        if self._mlflow_run is not None and version.mlflow_run == self._mlflow_run:
            return version.tags.get(f"{TAG}run") == self._run.run_id
        here = version.tags.get(f"{TAG}host") == platform.node()
        folder = version.folder
        return here and folder is not None and folder.is_relative_to(self._run.path)

    @staticmethod
    def _key(version: Version) -> tuple[str, int]:
        kind = version.tags.get(f"{TAG}kind", "")
        return kind, int(version.tags.get(f"{TAG}step") or 0) if kind == CHECKPOINT else 0

    def _make(self, state: State) -> int:
        source = str(state.folder)
        if is_server(self._registry.uri) and self._mlflow_run is not None:
            source = f"runs:/{self._mlflow_run}/{artifact_place(state)}"
        made = self._registry.client.create_model_version(
            self.name, source, run_id=self._mlflow_run, tags=self.tags(state)
        )
        return int(made.version)

    def _renew(self, version: Version, state: State) -> int:
        for key, value in self.tags(state).items():
            if version.tags.get(key) != value:
                self._tag(version, key, value)
        return version.version

    def _take_out(self, version: Version) -> None:
        if UPLOADED in version.tags or set(version.aliases) - _OURS:
            if version.tags.get(f"{TAG}state") != "pruned":
                self._tag(version, f"{TAG}state", "pruned")
            return
        self._registry.client.delete_model_version(self.name, str(version.version))

    def _tag(self, version: Version, key: str, value: str) -> None:
        self._registry.client.set_model_version_tag(self.name, str(version.version), key, value)

    def uploaded(self, state: State) -> None:
        """Note that a state's weights are among the run's artifacts."""
        for version in self._registry.versions(self.name):
            if self._is_mine(version) and self._key(version) == state.key:
                self._tag(version, UPLOADED, artifact_place(state))

    def tags(self, state: State) -> dict[str, str]:
        """What a version says of itself."""
        plan = self._plan
        adapter = (state.folder / "adapter_config.json").is_file()
        found = {
            "run": self._run.run_id,
            "kind": state.kind,
            "step": str(state.step),
            "fingerprint": plan.fingerprint,
            "weights": "adapter" if adapter else "full",
            "base": _base(plan),
            "folder": str(state.folder),
            "host": platform.node(),
            "seal": state.seal,
        }
        best = plan.settings["checkpoint"]["best"]
        if best is not None:
            found |= {
                "best_metric": str(best),
                "best_direction": str(plan.settings["checkpoint"]["best_direction"]),
            }
        measured = {f"{METRIC}{key}": repr(value) for key, value in self._metrics(state).items()}
        return {f"{TAG}{key}": value for key, value in found.items()} | measured

    def _metrics(self, state: State) -> dict[str, float]:
        """What was measured of these weights: held-out figures of the step, the loss before it."""
        if state.kind == FINAL:
            result = self._run.result() or {}
            return {
                key: float(value)
                for key, value in result.items()
                if (key.startswith(("eval_", "exact_match")) or key == "train_loss")
                and isinstance(value, int | float)
            }
        found = {}
        for key, points in journal.history(self._run.journal).items():
            if key.startswith("eval_") and state.step in points:
                found[key] = points[state.step]
            elif key == "train_loss" and (before := [s for s in points if s <= state.step]):
                found[key] = points[before[-1]]
        return found

    # -- aliases -------------------------------------------------------------------------------

    def _point(
        self,
        wanted: list[State],
        made: Mapping[tuple[str, int], int],
        known: list[Version],
    ) -> None:
        """`last` at the newest weights of this run; `best` at the best under this name."""
        last = max(wanted, key=lambda state: (state.step, state.kind == FINAL))
        self._alias(LAST, made[last.key], known)
        best = self._best(wanted)
        if best is not None and self._is_better(best, known):
            self._alias(BEST, made[best.key], known)

    def _best(self, wanted: list[State]) -> State | None:
        """This run's best: its final model, which is the best checkpoint, once that is written."""
        if self._plan.settings["checkpoint"]["best"] is None:
            return None
        if wanted[-1].kind == FINAL:
            return wanted[-1]
        step = best_step(self._run.checkpoint_folder)
        return next((one for one in wanted if one.step == step), None)

    def _is_better(self, best: State, known: list[Version]) -> bool:
        """Than what `best` points at now, if that is another run's and measured alike."""
        now = next((one for one in known if BEST in one.aliases), None)
        if now is None or self._is_mine(now):
            return True
        tags = self.tags(best)
        alike = all(
            now.tags.get(f"{TAG}{key}") == tags.get(f"{TAG}{key}")
            for key in ("best_metric", "best_direction")
        )
        metric = tags[f"{TAG}best_metric"]
        new, old = self._metrics(best).get(metric), now.metrics.get(metric)
        if not alike or old is None:
            return True  # nothing to compare with: the newer run decides
        return new is not None and _BETTER[tags[f"{TAG}best_direction"]](new, old)

    def _alias(self, alias: str, version: int, known: list[Version]) -> None:
        if not any(alias in one.aliases and one.version == version for one in known):
            self._registry.client.set_registered_model_alias(self.name, alias, str(version))


def artifact_place(state: State) -> str:
    """Where a state's files lie among the run's artifacts."""
    name = "final" if state.kind == FINAL else f"checkpoint-{state.step}"
    return f"models/{name}"


def files_to_upload(state: State) -> Iterator[Path]:
    """Files that loading needs: weights, config, tokenizer and plan.

    The manifest stays: it is about files that are not uploaded.
    """
    for path in sorted(state.folder.rglob("*")):
        if path.is_file() and not path.name.startswith((*_STATE, sealing.MANIFEST)):
            yield path


def _base(plan: Plan) -> str:
    model = plan.settings["model"]
    if model["kind"] == "scratch":
        return f"random {model['family']}"
    lowered = plan.lowered["model"]
    revision = lowered.get("revision")
    name = str(lowered["pretrained_model_name_or_path"])
    return f"{name}@{revision}" if revision else name
