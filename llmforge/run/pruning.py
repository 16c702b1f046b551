"""Pruning, seen from a run: is this trial still worth its time?

In: `trial.json` in a run folder, which the driver of a sweep writes beside the plan: where the
study is, which trial of it this run is, what is sought, what prunes. Out: `Judge`, which tells the
study each evaluation and answers why the run should end, or None. None of it stands in the plan, so
a trial and the same run by itself are one run.

The study is Optuna's, and any launcher may carry the trial: worker and driver meet in the study's
storage only. Trouble with it never stops a training: it is told once, and the run goes on unpruned.
"""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from llmforge.diagnostics import Diagnostic, Severity
from llmforge.run.folder import RunFolder

T = TypeVar("T")

FILE = "trial.json"
"""In the run folder of a trial that may be pruned."""

PATIENCE_SECONDS = 40.0
"""How long one word with the storage may take: more than the half-minute after which Optuna breaks
the lock that a killed process left on a journal."""


class RunPruned(Exception):
    """The run is not worth going on with; its state is saved."""


@dataclass(frozen=True)
class Assignment:
    """What `trial.json` holds."""

    storage: str
    """Path of a journal, relative to the run folder; an SQL URL; or `env:NAME`, which holds one."""
    study: str
    number: int
    """Of the trial in the study."""
    objective: str
    """As evaluations during training report it: `eval_loss`."""
    pruner: Mapping[str, Any]
    """`kind` and numbers, see `pruner_of`."""

    def write(self, run: RunFolder) -> None:
        """Leave it in the run folder."""
        run.write_json(FILE, asdict(self))

    @classmethod
    def read(cls, run: RunFolder) -> Assignment | None:
        """None for a run that nobody prunes."""
        found = run.read_json(FILE)
        return cls(**found) if found else None


def forget(run: RunFolder) -> None:
    """Nobody prunes this run any more: a pruned one that is run by name is wanted whole."""
    (run.path / FILE).unlink(missing_ok=True)


class Judge:
    """Asks the study whether a trial goes on."""

    def __init__(self, assignment: Assignment, run: RunFolder) -> None:
        self.objective = assignment.objective
        self._assignment, self._run = assignment, run
        self._given_up = False
        self._trial: Any = None

    def weigh(self, evaluation: int, value: float) -> str | None:
        """Tell the study one figure; the reason to end the run, or None to go on.

        Args:
            evaluation: its number during training, from 1. Telling the same one again, after a
                resume, changes nothing.
            value: of the objective; a NaN is as bad as can be.
        """
        if self._given_up:
            return None
        try:
            ends = within(PATIENCE_SECONDS, lambda: self._ask(evaluation, value))
        except Exception as error:  # whatever a storage raises; the training goes on
            self._given_up = True
            self._run.warn(_unheard(self._assignment, error).to_dict())
            return None
        if not ends:
            return None
        return (
            f"pruned by `{self._assignment.pruner['kind']}` at evaluation {evaluation}: "
            f"`{self.objective}` was {value:.4g}"
        )

    def _ask(self, evaluation: int, value: float) -> bool:
        if self._trial is None:
            self._trial = _open_trial(self._assignment, self._run.path)
        known = self._trial.study.trials[self._assignment.number].intermediate_values
        if evaluation not in known:
            self._trial.report(value, evaluation)
        return bool(self._trial.should_prune())


def judge_of(run: RunFolder) -> Judge | None:
    """The judge of a run that is a trial; None for all others."""
    assignment = Assignment.read(run)
    return Judge(assignment, run) if assignment else None


def open_storage(address: str, base: Path) -> Any:
    """Optuna's storage behind an address.

    Args:
        address: see `Assignment.storage`.
        base: folder that a relative path starts from.

    Raises:
        ImportError: Optuna is not installed.
        LookupError: the environment variable that the address names is not set.
        Exception: whatever the database or the file raises.
    """
    quieten()
    from optuna import storages
    from optuna.storages.journal import JournalFileBackend

    if address.startswith("env:"):
        name = address.removeprefix("env:")
        if not os.environ.get(name):
            raise LookupError(f"the environment variable {name} is not set")
        address = os.environ[name]
    if "://" in address:
        return storages.RDBStorage(address, engine_kwargs={"pool_pre_ping": True})
    return storages.JournalStorage(JournalFileBackend(str((base / address).resolve())))


def pruner_of(numbers: Mapping[str, Any]) -> Any:
    """Optuna's pruner of a `kind` with its numbers, all of them counted in evaluations."""
    from optuna import pruners

    kind = numbers["kind"]
    if kind == "median":
        # Optuna lets a trial be from the step that is named, and counts ours from 1
        return pruners.MedianPruner(
            n_startup_trials=numbers["startup"],
            n_warmup_steps=numbers["warmup"] + 1,
            interval_steps=numbers["interval"],
        )
    if kind == "halving":
        return pruners.SuccessiveHalvingPruner(
            min_resource=numbers["resource"], reduction_factor=numbers["reduction"]
        )
    if kind == "hyperband":
        return pruners.HyperbandPruner(
            min_resource=numbers["resource"],
            max_resource=numbers["evaluations"],
            reduction_factor=numbers["reduction"],
        )
    if kind == "patience":
        # Optuna wants one evaluation more than its patience before it looks at all
        return pruners.PatientPruner(
            None, patience=numbers["patience"] - 1, min_delta=numbers["tolerance"]
        )
    return pruners.NopPruner()


def within(seconds: float, call: Callable[[], T]) -> T:
    """The result of a call that may hang.

    Raises:
        TimeoutError: it took longer; it goes on in a thread that ends with the process.
        Exception: what the call raised.
    """
    done: list[T] = []
    failed: list[BaseException] = []

    def work() -> None:
        try:
            done.append(call())
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=work, name="study", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise TimeoutError(f"no answer in {seconds:.0f} seconds")
    return done[0]


def quieten() -> None:
    """Optuna's own lines and its warnings of what is new in it would stand between ours."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)


def _open_trial(assignment: Assignment, folder: Path) -> Any:
    import optuna

    study = optuna.load_study(
        study_name=assignment.study,
        storage=open_storage(assignment.storage, folder),
        sampler=optuna.samplers.RandomSampler(),
        pruner=pruner_of(assignment.pruner),
    )
    found = study.trials[assignment.number]
    return optuna.Trial(study, found._trial_id)  # noqa: SLF001 - the way `ask` makes one


def _unheard(assignment: Assignment, error: Exception) -> Diagnostic:
    said = str(error).strip().splitlines()
    return Diagnostic(
        "LF729",
        "the study did not answer, so this trial is no longer pruned: "
        f"{type(error).__name__}{': ' + said[0] if said else ''}",
        Severity.WARNING,
        key="sweep.storage",
        notes=(
            f"trial {assignment.number} of study `{assignment.study}`",
            "the training is not affected, and the sweep is told its result at the end",
        ),
    )
