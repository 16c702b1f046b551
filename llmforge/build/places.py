"""What loading a model starts from: a place, what its base is, and how loading is refused.

In: a folder, and the plan and run that belong to it where they are known. Out: the base's name, and
what tells two bases apart. Nothing is loaded here.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from peft import PeftConfig

from llmforge.build.load import BASE, is_adapter
from llmforge.plan import Plan

DEFAULT = "default"
"""Name of the adapter that a model was loaded with; others are added under names of their own."""


class Place(Protocol):
    """Where a model lies; see `refs/models.py`."""

    @property
    def folder(self) -> Path | None:
        """Weights or adapter; None for the untrained model of the plan."""

    @property
    def label(self) -> str:
        """For people."""

    @property
    def run(self) -> Any:
        """The run folder, if known."""

    @property
    def plan(self) -> Plan | None:
        """What it was trained by, if known."""


@dataclass(frozen=True)
class Folder:
    """A place of which nothing but the folder is known."""

    folder: Path
    run: None = None
    plan: None = None

    @property
    def label(self) -> str:
        return str(self.folder)


class NotLoadable(ValueError):
    """A model that is there cannot be loaded as asked."""

    def __init__(self, message: str, notes: Sequence[str] = (), hint: str | None = None) -> None:
        super().__init__(message)
        self.notes, self.hint = tuple(notes), hint


def base_name(place: Place) -> tuple[str, str | None]:
    """Folder or hub name of the base, and its revision there."""
    plan = place.plan
    if plan is not None and plan.spec.model.kind != "scratch":
        lowered = plan.lowered["model"]
        source, revision = str(lowered["pretrained_model_name_or_path"]), lowered.get("revision")
        # a run folder that is gone is no name on the hub
        if Path(source).is_dir() or not (Path(source).is_absolute() or plan.base is not None):
            return source, revision
    if place.folder is None:
        return "", None
    config = PeftConfig.from_pretrained(str(place.folder))
    return str(config.base_model_name_or_path or ""), config.revision


def base_identity(place: Place) -> tuple[str, ...]:
    """What the base of an adapter is: its folder, its hub name and revision, or how it was drawn.

    Of full weights it is the model itself.
    """
    plan = place.plan
    if place.folder is not None and not is_adapter(place.folder):
        return "folder", str(place.folder.resolve())
    if plan is not None and plan.spec.model.kind == "scratch":
        drawn = json.dumps([plan.lowered["model"], plan.spec.seed], sort_keys=True)
        return "random", hashlib.sha256(drawn.encode()).hexdigest()
    if place.folder is not None and (place.folder / BASE).is_dir():
        return "folder", str((place.folder / BASE).resolve())
    source, revision = base_name(place)
    if Path(source).is_dir():
        return "folder", str(Path(source).resolve())
    return "hub", source, revision or "main"


def told(identity: tuple[str, ...]) -> str:
    """A base's identity for people."""
    kind, *rest = identity
    return f"random weights {rest[0][:10]}" if kind == "random" else " at ".join(rest)
