"""What a model is made of: the reference of `llmforge fuse` and `quantize`, with plan and run.

In: a reference (a run, a checkpoint, a folder, a registered version, a hub repository), a saved
plan, or overrides alone; and overrides of how it is made. Out: `Subject`: the model's place, the
plan to work by, the run in whose folder the record is kept. A model that no run here has trained
gets a run folder of its own. Refusals: LF809, LF863, LF864, LF948 and those of compiling.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from llmforge.diagnostics import Diagnostic, refuse_on_error
from llmforge.plan import Plan
from llmforge.refs.models import ModelRefused, Place, Say, find_model, refused

if TYPE_CHECKING:
    from llmforge.run.folder import RunFolder

_REPOSITORY = re.compile(r"(?P<name>[A-Za-z0-9][\w.-]*/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_SLUG = re.compile(r"[^A-Za-z0-9]+")


@dataclass(frozen=True)
class Subject:
    """See the module."""

    place: Place
    plan: Plan
    """Says how it is made."""
    run: RunFolder
    findings: tuple[Diagnostic, ...] = ()
    """Warnings about the plan."""

    @property
    def folder(self) -> Path:
        """The model's folder."""
        assert self.place.folder is not None  # noqa: S101 - what is found has one
        return self.place.folder

    @property
    def trained(self) -> Plan | None:
        """The plan the model was trained by, if one is known."""
        return self.place.plan

    @property
    def step(self) -> int:
        """Optimizer steps behind it; 0 where that is not known."""
        if self.place.step is not None:
            return self.place.step
        return int((self.run.result() or {}).get("steps", 0))


@dataclass(frozen=True)
class Asked:
    """What the command line, or a caller, says."""

    ref: str | Path | None = None
    plan: Plan | None = None
    checkpoint: str | int | None = None
    overrides: tuple[str, ...] = ()
    config_dirs: tuple[str, ...] = ()
    weights: Literal["model", "fused", "quantized"] = "model"
    """Which weights of a run."""


def find_subject(asked: Asked, say: Say | None = None) -> Subject:
    """The model that is meant, with the plan and the run folder to work in.

    Raises:
        ConfigRefused: see the module.
    """
    place = find_place(asked, say)
    return subject_of(place, asked.overrides, asked.config_dirs)


def subject_of(
    place: Place, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()
) -> Subject:
    """The same of a place that is known."""
    from llmforge.compiler.making import making
    from llmforge.run.folder import RunFolder

    known = place.plan
    base = known or _own_plan(place, overrides, config_dirs)
    plan, found = making(base, overrides, config_dirs)
    refuse_on_error(found)
    run = place.run or RunFolder(base.run_folder)
    if not run.plan_file.is_file():
        run = RunFolder.create(plan)
    return Subject(place, plan, run, tuple(found))


def find_place(asked: Asked, say: Say | None = None) -> Place:
    """The place of the model that is meant, with no plan or run folder of its own.

    Raises:
        ConfigRefused: LF809, LF863, LF864.
    """
    if asked.ref is None:
        return _of_plan(asked)
    values = _places(asked)
    text = str(asked.ref)
    try:
        return find_model(
            asked.ref, asked.checkpoint, values["paths"]["runs"], values["tracking"],
            values["paths"]["cache"], say, weights=asked.weights,
        )  # fmt: skip
    except ModelRefused as missing:
        named = _REPOSITORY.fullmatch(text)
        if named is None or missing.diagnostics[0].code != "LF863":
            raise
        from llmforge.run.making.originals import fetch

        folder, label = fetch(named["name"], named["revision"], "LF863", "model", "llmforge runs")
        return Place(folder, label)


def _of_plan(asked: Asked) -> Place:
    """The run of a saved plan, or of the plan that overrides name; it must be finished."""
    plan = asked.plan
    if plan is None:
        from llmforge.compiler.passes import compile_plan

        plan = compile_plan(asked.overrides, asked.config_dirs)
    from llmforge.run.folder import RunFolder

    run = RunFolder(plan.run_folder)
    if not run.plan_file.is_file() or (asked.checkpoint is None and not run.manifest.is_file()):
        words = " ".join(asked.overrides)
        train = "llmforge train --plan <file>" if asked.plan else f"llmforge train {words}".rstrip()
        message = f"run {plan.run_id} is {run.status().value}: it has no final model"
        raise refused("LF809", message, (f"looked in {run.path}",), train)
    return find_model(run.path, asked.checkpoint, weights=asked.weights)


def _places(asked: Asked) -> dict[str, Any]:
    """Where runs, registry and cache are."""
    from llmforge.compose import compose

    texts = [one for one in asked.overrides if re.match(r"[+~]*(paths|tracking)[./=]", one)]
    return compose(texts, asked.config_dirs).values


def _own_plan(place: Place, overrides: Sequence[str], config_dirs: Sequence[str]) -> Plan:
    """A plan for a model that came without one: around its weights, or around an adapter's base."""
    from llmforge.compiler.facts.model import VOCABULARY_FILES
    from llmforge.compiler.making import plan_of_folder
    from llmforge.run.making.order import source_digest
    from llmforge.run.making.originals import CONFIG, find_original

    assert place.folder is not None  # noqa: S101 - only a plan's untrained model has none
    folder = weights = place.folder
    if (folder / CONFIG).is_file():
        values = _places(Asked(overrides=tuple(overrides), config_dirs=tuple(config_dirs)))
        given = _value(overrides, config_dirs, "fuse", "base")
        weights = find_original(folder, None, given, Path(values["paths"]["cache"])).folder
    own = any((folder / name).is_file() for name in VOCABULARY_FILES)
    slug = _SLUG.sub("-", place.label.partition(" at ")[0].rpartition("/")[2]).strip("-").lower()
    name = f"{slug or 'model'}-{source_digest(folder)[:6]}"
    plan, found = plan_of_folder(weights, folder if own else weights, name, overrides, config_dirs)
    refuse_on_error(found)
    assert plan is not None  # noqa: S101 - no error means that there is one
    return plan


def _value(overrides: Sequence[str], config_dirs: Sequence[str], section: str, name: str) -> Any:
    """What overrides make of a setting, before there is a plan."""
    from llmforge.compose import compose

    texts = [one for one in overrides if re.match(rf"[+~]*{section}[./=]", one)]
    return (compose(texts, config_dirs).values.get(section) or {}).get(name)
