"""Before the first trial: every point compiled, checked, deduplicated, looked up and priced.

In: a `Definition`. Out: `Point`s in the order of the grid, each with its run id, what the
compiler says of it, what it will cost and whether it was finished before. Nothing is started and
torch is never imported. A point is a run like any other: its plan is what `llmforge plan` with the
same overrides gives, only that its folder lies in the sweep's.
"""

from __future__ import annotations

import itertools
import os
import shlex
import threading
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from llmforge.compiler.passes import Checked, check_draft, freeze
from llmforge.compose.variants import Variants
from llmforge.diagnostics import Diagnostic
from llmforge.plan import Plan
from llmforge.run.bases import missing
from llmforge.run.folder import RunFolder
from llmforge.run.residency import own_process
from llmforge.run.status import Status
from llmforge.sweep.definition import Definition
from llmforge.sweep.price import history, price

FEWEST_PER_PROCESS = 40
"""Points that are worth a process of their own: half a second's work."""

LONGEST_NOTE = 300
"""Characters of a point's values in a note."""


class State(StrEnum):
    """What is known of a point before anything is started."""

    NEW = "new"
    FINISHED = "finished"
    """Its result stands in the sweep's folder."""
    PRUNED = "pruned"
    """The sweep ended it before its last step."""
    STARTED = "started"
    """It was begun before, and goes on where it stopped."""
    DUPLICATE = "duplicate"
    """An earlier point is the same run."""
    REFUSED = "refused"
    """The compiler says that it cannot work."""


@dataclass(frozen=True)
class Point:
    """One combination."""

    number: int
    values: dict[str, str]
    """Key -> text of its value, as the override has it."""
    overrides: tuple[str, ...]
    """All of them, those that every point shares first."""
    state: State
    run_id: str | None = None
    fingerprint: str | None = None
    codes: tuple[str, ...] = ()
    """Codes of the errors of a refused point."""
    reasons: tuple[str, ...] = ()
    """Their messages."""
    hints: tuple[str, ...] = ()
    """What would mend them, as far as it can be said."""
    memory: int | None = None
    """Bytes on one device at the worst moment."""
    hours: float | None = None
    """Of the whole run, as far as they can be foretold."""
    priced: str = "unknown"
    """What the hours rest on; see `price.py`."""
    place: str | None = None
    """Folder of the run, where it was finished outside the sweep."""
    steps: int | None = None
    tokens: int | None = None
    """Tokens that training sees at most."""
    apart: str | None = None
    """Why its trial must have a process of its own; see `run/residency.py`."""

    @property
    def runs(self) -> bool:
        """Is there something left to do?"""
        return self.state in (State.NEW, State.STARTED)

    def to_dict(self) -> dict[str, Any]:
        """JSON form, a line of `points.jsonl`."""
        return {**asdict(self), "state": self.state.value}


def grid(definition: Definition) -> Iterator[dict[str, str]]:
    """Every combination, the last dimension fastest."""
    keys = [one.key for one in definition.dimensions]
    for values in itertools.product(*(one.values for one in definition.dimensions)):
        yield dict(zip(keys, values, strict=True))


def overrides_of(definition: Definition, values: dict[str, str]) -> tuple[str, ...]:
    """What a point is composed of; its folder lies in the sweep's."""
    chosen = (f"{key}={value}" for key, value in values.items())
    return (*definition.fixed, *chosen, f"paths.runs={_quoted(definition.folder)}")


def examine(definition: Definition, points: Iterable[dict[str, str]]) -> list[Point]:
    """Compile every point and look up what became of it before."""
    history.cache_clear()  # other runs may have finished since
    numbered = list(enumerate(points))
    share = max(FEWEST_PER_PROCESS, -(-len(numbered) // (os.cpu_count() or 1)))
    shares = [numbered[start : start + share] for start in range(0, len(numbered), share)]
    # a fork takes over no other thread, so whatever lock such a thread holds stays locked
    if len(shares) < 2 or threading.active_count() > 1:
        found = _compiled(definition, numbered)
    else:
        with ProcessPoolExecutor(len(shares), get_context("fork")) as pool:
            parts = pool.map(partial(_compiled, definition), shares)
            found = [point for part in parts for point in part]
    return without_doubles(found)


def _compiled(definition: Definition, points: Sequence[tuple[int, dict[str, str]]]) -> list[Point]:
    variants = Variants(definition.config_dirs)
    found = []
    for number, values in points:
        draft = variants.compose(overrides_of(definition, values))
        checked = check_draft(draft, definition.config_dirs)
        found.append(look(definition, number, values, checked))
    return found


def look(definition: Definition, number: int, values: dict[str, str], checked: Checked) -> Point:
    """One point that was compiled."""
    overrides = overrides_of(definition, values)
    if checked.refused or checked.context is None:
        errors = [d for d in checked.diagnostics if d.is_error]
        return Point(
            number,
            values,
            overrides,
            State.REFUSED,
            codes=tuple(dict.fromkeys(d.code for d in errors)),
            reasons=tuple(d.message for d in errors),
            hints=tuple(d.hint for d in errors if d.hint),
        )
    plan = freeze(checked.context, checked.origins, checked.diagnostics, overrides)
    estimate = plan.estimate
    state, place = _before(definition, plan)
    over = state in (State.FINISHED, State.PRUNED)
    why = missing(plan) if plan.base is not None and not over else None
    if why is not None:
        codes, hints = ("LF625",), (_way_to_base(definition, plan),)
        return Point(
            number, values, overrides, State.REFUSED, codes=codes, reasons=(why,), hints=hints
        )
    cost = price(plan, (str(definition.folder), definition.runs), definition.spec.speed)
    return Point(
        number,
        values,
        overrides,
        state,
        plan.run_id,
        plan.fingerprint,
        memory=_worst(estimate.get("memory")),
        hours=cost.hours,
        priced=cost.basis,
        place=place,
        steps=estimate.get("steps"),
        tokens=estimate.get("tokens_at_most"),
        apart=own_process(plan),
    )


def _way_to_base(definition: Definition, plan: Plan) -> str:
    """What helps a trial whose model another run trains: to look where runs lie, or to train it."""
    if plan.settings["model"]["runs"] is None:
        return f"model.runs={_quoted(Path(definition.runs))}"
    return f"llmforge run {shlex.join(plan.settings['model']['overrides'])}".rstrip()


def _before(definition: Definition, plan: Plan) -> tuple[State, str | None]:
    """What became of a point, and where its run lies if not in the sweep's folder: the same run may
    have been finished by itself."""
    inside = state_of(plan.run_folder)
    alone = Path(definition.runs) / plan.run_id
    if not plan.run_folder.is_symlink():
        if inside is not State.NEW or state_of(alone) is not State.FINISHED:
            return inside, None
    elif inside is not State.FINISHED:
        return inside, None
    else:
        alone = plan.run_folder.resolve()
    return State.FINISHED, alone.absolute().as_posix()


def state_of(folder: str | Path) -> State:
    """What the run folder says."""
    run = RunFolder(folder)
    if not run.plan_file.is_file():
        return State.NEW
    status = run.status()
    if status is Status.FINISHED and run.result():
        return State.FINISHED
    if status is Status.PRUNED:
        return State.PRUNED
    return State.NEW if status is Status.CREATED else State.STARTED


def without_doubles(points: Sequence[Point]) -> list[Point]:
    """Points that are the same run as an earlier one are marked."""
    first: set[str] = set()
    found = []
    for point in points:
        if point.fingerprint is not None and point.fingerprint in first:
            point = replace(point, state=State.DUPLICATE)
        elif point.fingerprint is not None:
            first.add(point.fingerprint)
        found.append(point)
    return found


def plan_of(definition: Definition, point: Point) -> Plan:
    """The plan of a point that was found sound.

    Raises:
        ConfigRefused: the configuration changed since, and is refused now.
    """
    from llmforge.compiler.passes import compile_plan

    return compile_plan(point.overrides, definition.config_dirs)


def refusals(points: Iterable[Point]) -> list[Diagnostic]:
    """LF715: why each refused point was left out, once for each set of reasons."""
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        if point.state is State.REFUSED:
            groups.setdefault(point.reasons, []).append(point)
    return [
        Diagnostic(
            "LF715",
            f"{len(some)} of the sweep's points cannot work: {reasons[0]}",
            notes=(
                *reasons[1:],
                "for example " + shorten(" ".join(f"{k}={v}" for k, v in some[0].values.items())),
                *(f"by itself it would need {hint}" for hint in some[0].hints),
            ),
            hint="sweep.refused=skip",
        )
        for reasons, some in groups.items()
    ]


def same_for_all(definition: Definition, points: Sequence[Point]) -> list[Diagnostic]:
    """What is refused alike at every point: a fault of the sweep rather than of a point.

    A key that varies and is not there is told as it was written, with all its values.
    """
    if not points or any(point.state is not State.REFUSED for point in points):
        return []
    shared = set.intersection(*(set(point.reasons) for point in points))
    if not shared:
        return []
    first = points[0]
    draft = Variants(definition.config_dirs).compose(first.overrides)
    errors = check_draft(draft, definition.config_dirs).diagnostics
    written = {f"{one.override(first.values[one.key])}": one for one in definition.dimensions}
    found = []
    for error in errors:
        if not error.is_error or error.message not in shared:
            continue
        origins, hint = error.origins, error.hint
        for text, one in written.items():
            origins = tuple(replace(o, where=one.text) if o.where == text else o for o in origins)
            value = f"={first.values[one.key]}"
            if hint is not None and (error.key or "") in one.key and hint.endswith(value):
                before, _, key = hint.removesuffix(value).rpartition(" ")
                whole = shlex.quote(f"{key}={one.text.partition('=')[2]}")
                hint = f"{before} {whole}".lstrip()
        found.append(replace(error, origins=origins, hint=hint))
    return found


def shorten(text: str) -> str:
    """A text for a note, whatever its length."""
    return text if len(text) <= LONGEST_NOTE else f"{text[: LONGEST_NOTE - 3]}..."


def _worst(memory: Any) -> int | None:
    """Bytes of the worst phase."""
    if not isinstance(memory, dict):
        return None
    return int(memory["peak_bytes"]) if "peak_bytes" in memory else None


def _quoted(path: Path) -> str:
    text = path.as_posix()
    return text if all(c.isalnum() or c in "._-/" for c in text) else f'"{text}"'
