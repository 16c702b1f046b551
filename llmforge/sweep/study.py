"""The study of a sweep: Optuna's record of every trial, opened, asked and told.

In: a definition, axes, the sweep's folder. Out: `Study`. It lies in a journal in the sweep's folder
or in an SQL database, and opens in Optuna's own tools. A trial of the study and a run folder know
each other by the run id, which the trial keeps; what came of a run stands in its folder alone, so a
driver that was killed settles the study from there.

What can go wrong with a storage is LF726, a study of another space LF727; nothing here imports
torch, and Optuna is imported when a study is opened.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.run import journal
from llmforge.run.folder import RunFolder
from llmforge.run.pruning import Assignment, open_storage, quieten
from llmforge.schema.sweep import SearchSweep
from llmforge.sweep.axes import Axis
from llmforge.sweep.definition import Definition
from llmforge.sweep.preflight import Point, State, overrides_of
from llmforge.sweep.proposing import distribution, propose
from llmforge.sweep.storage import address_of, differing, mend_journal, missing, unusable
from llmforge.sweep.trial import Trial, trial_of

_KEPT = ("state", "run_id", "fingerprint", "codes", "reasons", "memory", "steps", "tokens")
"""Of a point, beside its number and values, which the trial has anyway."""


class Study:
    """Every trial that a sweep has proposed or been given."""

    def __init__(self, definition: Definition, axes: Sequence[Axis], folder: Path) -> None:
        """Open the study, or begin it.

        Raises:
            ConfigRefused: Optuna is not installed (LF722), the storage cannot be used (LF726), it
                holds a study of another space (LF727).
        """
        self._definition, self._axes, self._folder = definition, tuple(axes), folder
        self.address = address_of(definition.spec)
        self.name = study_name(definition, axes)
        with self._spoken():
            mend_journal(folder / self.address)
            self._storage = open_storage(self.address, folder)
            self._study = self._open()
        self._check_same()

    # -- asking and telling --------------------------------------------------------------------

    def ask(self, at_once: int) -> tuple[int, dict[str, str]]:
        """A new trial: its number, and key -> text of its value."""
        spec = self._definition.spec
        assert isinstance(spec, SearchSweep)  # noqa: S101 - a grid is given, not asked for
        question = {
            "opened": self._storage,
            "storage": self.address,
            "base": str(self._folder),
            "study": self.name,
            "axes": [axis.to_dict() for axis in self._axes],
            "pruner": pruner_numbers(self._definition),
            "at_once": at_once,
            **{name: getattr(spec, name) for name in
               ("sampler", "startup", "population", "grid_points", "seed")},
        }  # fmt: skip
        with self._spoken():
            number = propose(question)
            return number, self._values(self._trials()[number])

    def adopt(self, point: Point) -> int:
        """The trial of a point of a grid, made when there is none."""
        for number, known in self.points().items():
            if known.run_id == point.run_id:
                return number
        with self._spoken():
            self._study.enqueue_trial(dict(point.values))
            trial = self._study.ask({axis.key: distribution(axis) for axis in self._axes})
        self.bind(int(trial.number), point)
        return int(trial.number)

    def bind(self, number: int, point: Point) -> None:
        """Keep what the compiler said of a trial, and which run it is."""
        kept = {key: value for key, value in point.to_dict().items() if key in _KEPT}
        with self._spoken():
            trial_id = self._trials()[number]._trial_id  # noqa: SLF001 - storages go by it
            self._storage.set_trial_user_attr(trial_id, "point", kept)
            if point.run_id:
                self._storage.set_trial_user_attr(trial_id, "run_id", point.run_id)

    def refuse(self, number: int, point: Point) -> None:
        """The compiler refuses a proposal: a trial outside what is feasible, which does not count.

        It is told as failed to samplers of several objectives, which know no pruned trials.
        """
        self.bind(number, point)
        from optuna.trial import TrialState

        with self._spoken():
            trial_id = self._trials()[number]._trial_id  # noqa: SLF001 - storages go by it
            self._storage.set_trial_user_attr(trial_id, "refused", list(point.codes))
            self._storage.set_trial_system_attr(trial_id, "constraints:compiler", 1.0)
            several = len(self._definition.objectives) > 1
            self._study.tell(number, state=TrialState.FAIL if several else TrialState.PRUNED)

    def tell(self, number: int, trial: Trial) -> None:
        """What came of a run; a trial that is told already, or not over, is left as it is."""
        from optuna.trial import TrialState

        with self._spoken():
            known = self._trials()[number]
            if known.state.is_finished():
                return
            if trial.is_finished or trial.is_pruned:
                self._replay(known)
            values = self._figures(trial)
            if trial.is_finished and values is not None:
                self._study.tell(number, values)
            elif trial.is_pruned:
                self._study.tell(number, state=TrialState.PRUNED)
            elif trial.is_finished or trial.is_failed:
                why = trial.reason or "its objective is missing or no number"
                self._storage.set_trial_user_attr(
                    known._trial_id, "failed", f"{trial.code or 'no figure'}: {why}"[:500]  # noqa: SLF001 - as above
                )  # fmt: skip
                self._study.tell(number, state=TrialState.FAIL)

    def drop(self, number: int) -> None:
        """A trial that was never bound to a run: its driver died in between."""
        from optuna.trial import TrialState

        with self._spoken():
            trial_id = self._trials()[number]._trial_id  # noqa: SLF001 - as above
            self._storage.set_trial_user_attr(trial_id, "refused", ["lost"])
            self._study.tell(number, state=TrialState.FAIL)

    def again(self, number: int) -> None:
        """A new trial of the same point in place of one that failed by no fault of it."""
        from optuna.trial import TrialState, create_trial

        with self._spoken():
            old = self._trials()[number]
            kept = {key: old.user_attrs[key] for key in ("point", "run_id")}
            trial = create_trial(
                state=TrialState.RUNNING,
                params=old.params,
                distributions=old.distributions,
                user_attrs={**kept, "again": number},
                system_attrs=old.system_attrs,  # its place in a sampler's generation
            )
            self._study.add_trial(trial)

    # -- looking -------------------------------------------------------------------------------

    def points(self) -> dict[int, Point]:
        """Trials that were bound to a run or refused: number -> point."""
        found = {}
        for trial in self._in_force():
            kept = trial.user_attrs.get("point")
            if kept:
                found[trial.number] = self._point(trial, kept)
        return found

    def open_numbers(self) -> list[int]:
        """Trials that were begun and not told."""
        return [t.number for t in self._trials() if not t.state.is_finished()]

    def counted(self) -> int:
        """Trials that count; a refused point does not."""
        return sum("refused" not in t.user_attrs for t in self._in_force())

    def worth_another(self) -> list[int]:
        """Trials that were told as failed and by their run folders may run again, or have since."""
        found = []
        for trial in self._in_force():
            run_id = trial.user_attrs.get("run_id")
            if trial.state.name == "FAIL" and "refused" not in trial.user_attrs and run_id:
                came = trial_of(self._folder / run_id)
                if came.is_worth_another or (came.is_over and self._figures(came) is not None):
                    found.append(int(trial.number))
        return found

    def counts(self) -> dict[str, int]:
        """How many trials came to what: `finished`, `pruned`, `failed`, `refused`, `open`."""
        names = {"COMPLETE": "finished", "PRUNED": "pruned", "FAIL": "failed"}
        found = dict.fromkeys((*names.values(), "refused", "open"), 0)
        for trial in self._in_force():
            refused = "refused" in trial.user_attrs
            found["refused" if refused else names.get(trial.state.name, "open")] += 1
        return found

    def asked(self) -> set[tuple[str, ...]]:
        """Every point that was proposed so far."""
        return {tuple(self._values(trial).values()) for trial in self._trials()}

    def assign(self, number: int, run: RunFolder) -> None:
        """Tell a run's worker which trial it is, where trials are pruned."""
        numbers = pruner_numbers(self._definition)
        if numbers["kind"] == "none":
            return
        address = self.address
        if "://" not in address and not address.startswith("env:"):
            address = os.path.relpath(self._folder / address, run.path)
        Assignment(address, self.name, number, self._definition.objective, numbers).write(run)

    # -- within --------------------------------------------------------------------------------

    def _open(self) -> Any:
        quieten()
        import optuna
        from optuna.study import StudyDirection

        directions = [StudyDirection[one.direction.upper()] for one in self._definition.objectives]
        return optuna.create_study(
            study_name=self.name,
            storage=self._storage,
            # only asking needs the sampler, and that is done by `proposing.py`
            sampler=optuna.samplers.RandomSampler(),
            directions=directions,
            load_if_exists=True,
        )

    def _check_same(self) -> None:
        described: dict[str, Any] = {
            "axes": [axis.to_dict() for axis in self._axes],
            "objectives": [[one.name, one.direction] for one in self._definition.objectives],
        }
        with self._spoken():
            known = self._study.user_attrs.get("llmforge")
            # a study that somebody else filled has no such note
            if known is None and not self._study.get_trials(deepcopy=False):
                self._study.set_user_attr("llmforge", described)
                names = [one.name for one in self._definition.objectives]
                self._study.set_metric_names(names)
                return
        if known is None or known["objectives"] != described["objectives"] or differing(
            known["axes"], described["axes"]
        ):  # fmt: skip
            raise ConfigRefused([self._another(known)])
        if known != described:
            with self._spoken():
                self._study.set_user_attr("llmforge", described)

    def _another(self, known: Mapping[str, Any] | None) -> Diagnostic:
        notes = [f"in {self._folder / self.address}" if "://" not in self.address else "there"]
        if known is None:
            notes = ["it was not made by llmforge"]
        else:
            notes = differing(known["axes"], [axis.to_dict() for axis in self._axes])
            notes += [] if notes else [f"it seeks {', '.join(n for n, _ in known['objectives'])}"]
        return Diagnostic(
            "LF727",
            f"the storage holds a study `{self.name}` of another space",
            key="sweep.name",
            notes=tuple(notes),
            hint=f"sweep.name={self._definition.name[:50]}-2",
        )

    def _trials(self) -> list[Any]:
        found: list[Any] = self._study.get_trials(deepcopy=False)
        return found

    def _in_force(self) -> list[Any]:
        """Trials but for those that another one has taken the place of."""
        every = self._trials()
        old = {trial.user_attrs.get("again") for trial in every}
        return [trial for trial in every if trial.number not in old]

    def _values(self, trial: Any) -> dict[str, str]:
        return {
            axis.key: axis.text(trial.params[axis.key])
            for axis in self._axes
            if axis.key in trial.params
        }

    def _point(self, trial: Any, kept: Mapping[str, Any]) -> Point:
        values = self._values(trial)
        known = {field.name for field in fields(Point)}
        more: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value
            for key, value in kept.items()
            if key in known and key != "state"
        }
        overrides = overrides_of(self._definition, values)
        return Point(trial.number, values, overrides, State(kept["state"]), **more)

    def _figures(self, trial: Trial) -> list[float] | None:
        """The objectives' values; None if one is missing, or no number."""
        values = [trial.figures.get(one.name) for one in self._definition.objectives]
        numbers = [float(v) for v in values if v is not None and not math.isnan(float(v))]
        return numbers if len(numbers) == len(values) else None

    def _replay(self, known: Any) -> None:
        """Evaluations of a run that was not this trial when it ran: others are judged by them."""
        run_id = known.user_attrs.get("run_id")
        if known.intermediate_values or not run_id or len(self._definition.objectives) > 1:
            return
        curve = journal.history(RunFolder(self._folder / run_id).journal)
        points = sorted((curve.get(self._definition.objective) or {}).items())
        during = [value for step, value in points if step > 0][: self._definition.evaluations]
        for number, value in enumerate(during, 1):
            self._storage.set_trial_intermediate_value(known._trial_id, number, value)  # noqa: SLF001 - as above

    @contextmanager
    def _spoken(self) -> Iterator[None]:
        """What a storage raises, as a finding."""
        try:
            yield
        except ImportError as error:
            raise ConfigRefused([missing(error)]) from error
        except ConfigRefused:
            raise
        except Exception as error:
            raise ConfigRefused([unusable(self.address, self._folder, error)]) from error


def study_name(definition: Definition, axes: Sequence[Axis]) -> str:
    """The sweep's name; a grid whose choices changed goes on in a study of its own."""
    if definition.is_search:
        return definition.name
    text = json.dumps([axis.to_dict() for axis in axes], sort_keys=True)
    return f"{definition.name}-{hashlib.sha256(text.encode()).hexdigest()[:6]}"


def pruner_numbers(definition: Definition) -> dict[str, Any]:
    """What `run/pruning.py` makes a pruner of."""
    spec = definition.spec
    longest: int | str = definition.evaluations or "auto"
    return {"kind": spec.pruner, **spec.pruning.settings(), "evaluations": longest}
