"""The list of runs: which there are, filtered, sorted, as a table or as JSON.

In: the folders of runs and of sweeps, what is asked for. Out: rows. A run has what its folder
says: `run`, `status`, `sweep`, ...; every figure of its result by name (`eval_loss`,
`baseline.eval_loss`); every setting by its key (`optimizer.lr`). Plans are only read when a setting
is asked for. Never asks MLflow.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from llmforge.diagnostics import ConfigRefused, Diagnostic, did_you_mean, near
from llmforge.origins import leaves
from llmforge.render import shown, table
from llmforge.run.folder import RunFolder
from llmforge.run.ledger import SWEEPS, all_runs
from llmforge.run.query import Query, QueryError, names, parse

DEFAULT = ("run", "sweep", "status", "steps", "train_loss", "eval_loss", "exact_match")
"""Columns when none are named; those that no run has are left out."""

OWN = ("run", "sweep", "status", "stage", "updated", "attempts", "code", "reason", "folder")
"""What a run has besides figures and settings."""


@dataclass(frozen=True)
class Asked:
    """What is wanted of a list."""

    where: Sequence[str] = ()
    """Filters (see `query.py`); all of them hold."""
    status: str | None = None
    sweep: str | None = None
    sort: str | None = None
    """Name of a column, `-` in front for the largest first; else the run touched last is first."""
    columns: str | None = None
    """Names with commas between; those with `+` in front are added to the default ones."""
    limit: int | None = None


class Listed:
    """One run."""

    def __init__(self, run: RunFolder) -> None:
        self.folder = run

    def value(self, name: str) -> Any:
        """By name; None for what it does not have."""
        if name in OWN:
            return self._own[name]
        if name in self.figures:
            return self.figures[name]
        return self.settings.get(name)

    @cached_property
    def _own(self) -> dict[str, Any]:
        record = self.folder.record()
        parent = self.folder.path.parent
        return {
            "run": self.folder.run_id,
            "sweep": parent.name if (parent / "sweep.json").is_file() else None,
            "status": record.status.value,
            "stage": record.stage,
            "updated": record.updated,
            "attempts": record.attempts,
            "code": record.code,
            "reason": record.reason,
            "folder": str(self.folder.path),
        }

    @cached_property
    def figures(self) -> dict[str, Any]:
        """What stands in its result."""
        return dict(leaves(self.folder.result() or {}))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """What its plan set."""
        plan = self.folder.read_json("plan.json") or {}
        return dict(leaves(plan.get("settings", {})))


def runs_text(runs: Path, sweeps: Path | None, asked: Asked, as_json: bool) -> str:
    """The list as text.

    Raises:
        ConfigRefused: a filter cannot be read (LF741), no run has what is named (LF742).
    """
    everything = [Listed(run) for run in all_runs(runs, sweeps)]
    if not everything:
        place = sweeps or runs.parent / SWEEPS
        return "[]" if as_json else f"no runs in {runs} or {place}; llmforge train makes one"
    found = chosen(everything, asked)
    columns = _columns(everything, found, asked.columns)
    if as_json:
        rows = [{name: one.value(name) for name in columns} for one in found]
        return json.dumps(rows, indent=2, ensure_ascii=False, default=str)
    if not found:
        return f"none of {len(everything)} runs is like that"
    return table([[_cell(one.value(name)) for name in columns] for one in found], columns)


def chosen(everything: Sequence[Listed], asked: Asked) -> list[Listed]:
    """Those that were asked for, in the order that was.

    Raises:
        ConfigRefused: LF741, LF742.
    """
    queries = [_query(text) for text in asked.where]
    sort = (asked.sort or "").lstrip("-")
    wanted = [name for query in queries for name in names(query)]
    _known(everything, [*wanted, *([sort] if sort else [])])
    sweep = _sweep_named(everything, asked.sweep or "")
    found = [
        one
        for one in everything
        if _fits(one, asked, queries) and (not asked.sweep or one.value("sweep") in sweep)
    ]
    if sort:
        found = _sorted(found, sort, downwards=str(asked.sort).startswith("-"))
    return found[: asked.limit]


def _sweep_named(everything: Sequence[Listed], text: str) -> set[str]:
    """The sweep of this name, else those whose names begin so, as `llmforge report` takes them."""
    known = {str(one.value("sweep")) for one in everything if one.value("sweep")}
    return {text} if text in known else {name for name in known if name.startswith(text)}


def _fits(one: Listed, asked: Asked, queries: Iterable[Query]) -> bool:
    if asked.status and str(one.value("status")).lower() != asked.status.lower():
        return False
    return all(query.holds(one.value) for query in queries)


def _sorted(found: Sequence[Listed], name: str, downwards: bool) -> list[Listed]:
    """By a column; numbers before texts, runs without it at the end either way."""
    known = [one for one in found if one.value(name) is not None]
    missing = [one for one in found if one.value(name) is None]

    def place(one: Listed) -> tuple[bool, float, str]:
        value = one.value(name)
        number = isinstance(value, int | float)
        return (not number, float(value) if number else 0.0, "" if number else str(value))

    return [*sorted(known, key=place, reverse=downwards), *missing]


def _columns(everything: Sequence[Listed], found: Sequence[Listed], text: str | None) -> list[str]:
    named = [name.strip() for name in (text or "").split(",") if name.strip()]
    added = [name.lstrip("+") for name in named if name.startswith("+")]
    plain = [name for name in named if not name.startswith("+")]
    _known(everything, [*plain, *added])
    shown_anyway = ("run", "status")
    default = [
        name
        for name in DEFAULT
        if name in shown_anyway or any(one.value(name) is not None for one in found)
    ]
    return list(dict.fromkeys([*(plain or default), *added]))


def _query(text: str) -> Query:
    try:
        return parse(text)
    except QueryError as error:
        raise ConfigRefused(
            [
                Diagnostic(
                    "LF741",
                    f"`{text}` is no filter: {error}",
                    notes=(f"it is read up to here: {text[: error.place]} \u2039here\u203a",),
                    hint='llmforge runs --where "eval_loss<2 and optimizer.lr>1e-4"',
                )
            ]
        ) from error


def _known(everything: Sequence[Listed], wanted: Sequence[str]) -> None:
    """No run at all has it: most likely a slip."""
    if not everything:
        return
    found = []
    for name in dict.fromkeys(wanted):
        if name in OWN or any(name in one.figures or name in one.settings for one in everything):
            continue
        there = {key for one in everything for key in (*one.figures, *one.settings)} | set(OWN)
        close = near(name, there)
        found.append(
            Diagnostic(
                "LF742",
                f"no run has a setting or figure `{name}`",
                notes=did_you_mean(name, there),
                hint=f"llmforge runs --columns +{close[0] if close else 'eval_loss'}",
            )
        )
    if found:
        raise ConfigRefused(found)


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.4g}" if isinstance(value, float) else shown(value)
