"""A plan that makes something of a model that is there: a run's own plan with other settings of it.

In: the plan of a run, the stage (`fuse`, `quantize`), overrides. Out: the plan the stage runs by,
and what is to be said of it. What the model is stays as the run has it: neither its data nor its
base are looked at for fingerprints again, so the plan holds also where the data are gone. The stage
runs in one process on this machine, whatever the run was trained on, unless overrides say else.

Overrides that would make it another model are refused (LF948). Nothing is run here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmforge.compiler.context import Context, Facts, Surroundings
from llmforge.compiler.derive.inputs import probe_model
from llmforge.compiler.derive.launching import derive_processes
from llmforge.compiler.derive.machine import probe_machine
from llmforge.compiler.overlay import (
    apply,
    closed,
    drop,
    section_of,
    section_of_finding,
    settings_of,
    word,
)
from llmforge.compiler.parse import parse
from llmforge.compose.overrides import Override
from llmforge.diagnostics import Diagnostic
from llmforge.origins import Origin, Origins
from llmforge.plan import Plan, canonical_digest
from llmforge.stage_order import FOLDERS

STAGES = tuple(FOLDERS)
OPEN = (*STAGES, "hardware", "launch", "card")
"""What may be changed: how it is made, on which machine, and what its card says."""
PLACES = ("paths", "tracking")
"""Sections that say where a model is looked for; what is made is kept where its run is."""


def making(
    plan: Plan, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()
) -> tuple[Plan, list[Diagnostic]]:
    """The plan to make something of the model of a run by.

    Args:
        plan: of the run.
        overrides: as on the command line, of the sections above.
        config_dirs: the user's own option folders.

    Returns:
        The plan, and every finding. With an error among them the plan is the one given.
    """
    asked, found = _asked(overrides, config_dirs)
    values, origins = settings_of(plan)
    _here(values, origins)
    found += apply(values, origins, asked, config_dirs)
    spec, faults = parse(values, origins)
    found += faults
    if spec is None or any(one.is_error for one in found):
        return plan, found
    around = Surroundings(tuple(config_dirs), base=plan.base_plan)
    context = Context(spec, Facts(identity=plan.facts["identity"]), around)
    for each in (probe_machine, derive_processes, probe_model):
        step = each(context)
        # that a base is not where it was is told by the stage itself, and only if it needs it
        found += [one for one in step.diagnostics if section_of_finding(one) in OPEN]
        context = context.apply(step, each.__name__, origins)
    found += _of_the_stages(context)
    settings = context.spec.settings()
    stages = dict(plan.stages)
    for stage in STAGES:
        if settings[stage] != plan.settings[stage]:
            what = {name: settings[name] for name in STAGES[: STAGES.index(stage) + 1]}
            stages[stage] = canonical_digest({"model": plan.fingerprint, "settings": what})
    for key, chain in plan.origins.chains.items():
        origins.chains.setdefault(key, list(chain))
    told = [one.to_dict() for one in found]
    made = replace(
        plan, settings=settings, origins=origins, stages=stages, findings=told,
        overrides=[one.text for one in asked],
    )  # fmt: skip
    return made, found


def _of_the_stages(context: Context) -> list[Diagnostic]:
    """What the rules say of the stages' own sections."""
    from llmforge.compiler.passes import run_rules  # which imports all rules

    return [one for one in run_rules(context) if section_of_finding(one) in STAGES]


def _asked(
    overrides: Sequence[str], config_dirs: Sequence[str]
) -> tuple[list[Override], list[Diagnostic]]:
    """Overrides of open sections, and LF948 for each of a closed one."""
    if not overrides:
        return [], []  # a plan that is run as it is needs no folder of options
    from llmforge.compose.library import open_library
    from llmforge.compose.overrides import parse as parse_overrides

    library, found = open_library(config_dirs)
    read = parse_overrides(overrides, library)
    found = [*found, *read.diagnostics]
    usable = []
    for override in read.overrides:
        section = section_of(override)
        if section in OPEN:
            usable.append(override)
        elif section not in PLACES:
            message = "would change the model, and not what is made of it"
            found.append(closed(override, OPEN, "LF948", message))
    return usable, found


def _here(values: dict[str, Any], origins: Origins) -> None:
    """One process on this machine."""
    sections: dict[str, dict[str, Any]] = {
        "hardware": {"kind": "auto"},
        "launch": {
            "kind": "local",
            "processes": 1,
            "threads": values["launch"]["threads"],
        },
    }
    for section, settings in sections.items():
        drop(origins, section)
        values[section] = settings
        for name, value in settings.items():
            why = "a finished model is worked on here, by one process"
            origins.add(f"{section}.{name}", Origin("derived", "making", value, reason=why))


def plan_of_folder(
    folder: Path,
    tokenizer: Path,
    name: str,
    overrides: Sequence[str] = (),
    config_dirs: Sequence[str] = (),
) -> tuple[Plan | None, list[Diagnostic]]:
    """A plan around a model that no run of llmforge has trained, to make something of it by.

    Args:
        folder: full weights.
        tokenizer: folder with the tokenizer.
        name: of the plan, and so of the run folder.
        overrides: those of `PLACES` count; the others are put on top by `making`.
        config_dirs: the user's own option folders.

    Returns:
        The plan, None where it is refused, and what there is to say of it.
    """
    from llmforge.compiler.again import without_training
    from llmforge.compiler.passes import check_draft, freeze
    from llmforge.compose import compose

    places = [one for one in overrides if _section_of_text(one) in PLACES]
    fixed = ["model=folder", "data=builtin", "collator=auto", "lora=none", "quantization=none"]
    fixed += [word("model.path", str(folder)), word("tokenizer.source", str(tokenizer))]
    draft = compose([*fixed, word("name", name), *places], config_dirs)
    if any(one.is_error for one in draft.diagnostics):
        return None, list(draft.diagnostics)
    checked = check_draft(without_training(draft), config_dirs)
    found = [d for d in checked.diagnostics if d.is_error or section_of_finding(d) in OPEN]
    if checked.refused or checked.context is None:
        return None, found
    return freeze(checked.context, checked.origins, found, draft.overrides), found


def _section_of_text(override: str) -> str:
    return override.lstrip("+~").partition("=")[0].replace("/", ".").partition(".")[0]
