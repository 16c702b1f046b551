"""The sweep's folder: what it holds, and who may write there.

In: a `Definition`, or the path of a folder made from one. Out: `SweepFolder`, the one place that
knows the names of the files in it:

    sweep.json          what is varied and sought; the parent run in MLflow
    points.jsonl        every point with what was found before it ran: id, refusals, price
    stopped.json        why no further trial is started; gone when the sweep goes on
    <run id>/           a trial: a run folder like any other (`run/folder.py`)

What became of a trial stands in its own folder, so nothing has to be kept in step.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmforge.diagnostics import ConfigRefused, Diagnostic
from llmforge.sweep.definition import Definition

_LOOKS = (0.05, 0.2)
"""Seconds between tries for the lock."""


class SweepFolder:
    """`<sweep.folder>/<sweep>/`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()

    @property
    def definition_file(self) -> Path:
        """What is varied and sought."""
        return self.path / "sweep.json"

    @property
    def points_file(self) -> Path:
        """One line per point."""
        return self.path / "points.jsonl"

    @property
    def stopped_file(self) -> Path:
        """Why no further trial is started."""
        return self.path / "stopped.json"

    def read(self) -> dict[str, Any]:
        """`sweep.json`; empty when there is none."""
        if not self.definition_file.is_file():
            return {}
        found: dict[str, Any] = json.loads(self.definition_file.read_text(encoding="utf-8"))
        return found

    def write(self, values: Mapping[str, Any]) -> None:
        """Rewrite `sweep.json` whole."""
        self._replace(self.definition_file, json.dumps(values, indent=2) + "\n")

    def write_points(self, points: Sequence[Mapping[str, Any]]) -> None:
        """Rewrite the points."""
        lines = "".join(json.dumps(point) + "\n" for point in points)
        self._replace(self.points_file, lines)

    def points(self) -> list[dict[str, Any]]:
        """What was found of each point before it ran."""
        if not self.points_file.is_file():
            return []
        text = self.points_file.read_text(encoding="utf-8")
        return [json.loads(line) for line in text.splitlines()]

    def stop(self, reason: Mapping[str, Any]) -> None:
        """No further trial is started, wherever its launcher has put it."""
        self._replace(self.stopped_file, json.dumps(reason, indent=2) + "\n")

    @property
    def stopped(self) -> dict[str, Any] | None:
        """Why no further trial is started; None while they may."""
        if not self.stopped_file.is_file():
            return None
        found: dict[str, Any] = json.loads(self.stopped_file.read_text(encoding="utf-8"))
        return found

    def check(self, definition: Definition) -> dict[str, Any]:
        """What the folder says of this sweep; empty for a new one.

        Raises:
            ConfigRefused: LF713, it belongs to a sweep over something else.
        """
        known = self.read()
        if known and known.get("digest") != definition.digest():
            raise ConfigRefused([_another(self.path, known, definition)])
        return known

    def claim(self, definition: Definition) -> None:
        """Take the folder for this sweep.

        Raises:
            ConfigRefused: LF713, it belongs to a sweep over something else.
        """
        known = self.check(definition)
        self.path.mkdir(parents=True, exist_ok=True)
        self.write({**known, **definition.to_dict()})
        self.stopped_file.unlink(missing_ok=True)

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder while trials are driven.

        Raises:
            ConfigRefused: another process drives this sweep (LF714), the folder cannot be made or
                written to (LF717).
        """
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _locked(handle):
                who = os.read(handle, 32).decode(errors="replace").strip()
                raise ConfigRefused([_driven(self.path, who)])
            with self._writing():
                os.ftruncate(handle, 0)
                os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
            yield
        finally:
            os.close(handle)

    @property
    def is_driven(self) -> bool:
        """Does a process hold the folder?"""
        try:
            with (self.path / ".lock").open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except FileNotFoundError:
            return False
        return False

    def _replace(self, path: Path, text: str) -> None:
        with self._writing():
            self.path.mkdir(parents=True, exist_ok=True)
            beside = path.with_name(f".{path.name}.{os.getpid()}")
            beside.write_text(text, encoding="utf-8")
            beside.replace(path)

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ConfigRefused([unwritable(self.path, error)]) from error


def _locked(handle: int) -> bool:
    """Take the lock, unless a driver has it: who only looks (`is_driven`) has it for a moment."""
    for pause in (*_LOOKS, None):
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if pause is not None:
                time.sleep(pause)
        else:
            return True
    return False


def _another(path: Path, known: Mapping[str, Any], definition: Definition) -> Diagnostic:
    wanted = definition.to_dict()
    differing = [
        f"{part}: {_short(known.get(part))} there, {_short(wanted[part])} here"
        for part in ("space", "objective", "direction", "fixed")
        if known.get(part) != wanted[part]
    ]
    return Diagnostic(
        "LF713",
        f"{path} holds another sweep of this name",
        key="sweep.name",
        notes=tuple(differing),
        hint=f"sweep.name={definition.name[:50]}-2",
    )


def _driven(path: Path, who: str) -> Diagnostic:
    return Diagnostic(
        "LF714",
        "this sweep is being driven" + (f" by process {who}" if who else ""),
        notes=(f"in {path}",),
        hint=f"kill {who}" if who else None,
    )


def unwritable(path: Path, error: OSError) -> Diagnostic:
    """LF717: no folder, no right, or no room."""
    return Diagnostic(
        "LF717",
        f"the sweep's folder {path} cannot be written to: {error.strerror or error}",
        key="sweep.folder",
        notes=("what its trials have done stands in their folders; the same command goes on",),
        hint="sweep.folder=multirun",
    )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else f"{text[:117]}..."
