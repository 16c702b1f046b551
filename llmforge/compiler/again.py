"""A plan that measures a model that is there: a run's own plan with other data, rows or metrics.

In: the plan of a run, overrides, the folder of the model to measure. Out: what `passes.check` gives
(`Checked`), whose plan the `evaluate` stage runs. What the model is stays as the run has it, its
tokenizer and template above all; what only training needs is put out of the way, so that nothing is
refused, counted or tokenised for its sake.

Overrides that would make it another model are refused (LF224). Nothing is run here.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmforge.compiler.passes import Checked, check_draft
from llmforge.compose import Draft, compose
from llmforge.compose.library import open_library
from llmforge.compose.overrides import Override, parse
from llmforge.diagnostics import Diagnostic, did_you_mean
from llmforge.origins import Origin, Origins, leaves
from llmforge.plan import Plan
from llmforge.schema import SCALARS, SECTIONS

OPEN = ("data", "evaluation", "generation", "metrics", "plugins", "hardware", "launch", "precision")
"""What may be changed: what is asked, on which machine, and in which arithmetic."""

_NO_TRAINING: dict[str, Any] = {
    "trainer.epochs": None,
    "trainer.max_steps": 1,
    "trainer.global_batch": "auto",
    "trainer.micro_batch": 1,
    "trainer.accumulation": 1,
    "trainer.log_every": None,
    "schedule.warmup": 0,
    "evaluation.every": None,
    "evaluation.delay": 0,
    "evaluation.at_start": False,
    "evaluation.patience": None,
    "evaluation.min_improvement": 0.0,
    "evaluation.answers": "end",
    "checkpoint.every": None,
    "checkpoint.best": None,
    "collator.packing": "none",
}
"""Settings that say nothing where nothing is trained."""

_ROWS: dict[str, Any] = {
    "data.max_untrained_rows": None,
    "data.max_cut_tokens": None,
    "data.max_overlap": None,
    "data.require_end_token": False,
}
"""Limits that keep a training from bad rows; the user's own overrides win."""


def measuring(
    plan: Plan, tokenizer: Path, overrides: Sequence[str] = (), config_dirs: Sequence[str] = ()
) -> Checked:
    """Check what is asked on top of a run's plan.

    Args:
        plan: of the run.
        tokenizer: folder with the run's own tokenizer.
        overrides: as on the command line.
        config_dirs: the user's own option folders.
    """
    library, _ = open_library(config_dirs)  # what is wrong with a folder, composing tells
    asked = parse(overrides, library)
    found = [*asked.diagnostics, *_closed(asked.overrides)]
    chains = {
        key: list(chain)
        for key, chain in plan.origins.chains.items()
        if key.partition(".")[0] in (*SECTIONS, *SCALARS)
    }
    values, origins = copy.deepcopy(plan.settings), Origins(chains)
    why = "nothing is trained when a model is measured"
    _force(values, origins, _NO_TRAINING, why)
    _force(values, origins, _ROWS, why)
    if not (values["data"]["streaming"] or values["data"]["kind"] == "mix"):
        _force(values, origins, {"data.max_train_rows": 1}, why)
    found += _apply(values, origins, asked.overrides, config_dirs)
    _force(values, origins, {"tokenizer.source": str(tokenizer)}, "the run's own tokenizer")
    draft = Draft(values, origins, {}, tuple(found), tuple(overrides), tuple(config_dirs))
    checked = check_draft(draft, config_dirs)
    kept = [d for d in checked.diagnostics if d.is_error or _concerns(d)]
    kept += _nothing_to_measure(checked)
    return replace(checked, diagnostics=tuple(kept))


def _closed(overrides: Sequence[Override]) -> list[Diagnostic]:
    """LF224 for each override of what the model is."""
    known = (*SECTIONS, *SCALARS)
    found = []
    for override in overrides:
        section = _section(override)
        if section in OPEN:
            continue
        close = did_you_mean(section, OPEN) if section not in known else ()
        found.append(
            Diagnostic(
                "LF224",
                f"`{override.text}` would change more than what is measured",
                key=override.key,
                origins=(override.origin(),),
                notes=(*close, f"these can be changed: {', '.join(OPEN)}"),
                hint=f"llmforge train {override.text}" if section in known else None,
            )
        )
    return found


def _section(override: Override) -> str:
    return override.key.replace("/", ".").partition(".")[0]


def _concerns(finding: Diagnostic) -> bool:
    return (finding.key or "").partition(".")[0] in OPEN


def _nothing_to_measure(checked: Checked) -> list[Diagnostic]:
    data = checked.context.facts.data if checked.context else None
    if checked.refused or data is None or data.evaluation_rows:
        return []
    message = "there are no held-out rows to measure"
    notes = ("`data.evaluation` is not given and `data.eval_fraction` holds out no row",)
    hint = "data.evaluation=<file>"
    return [Diagnostic("LF228", message, key="data.evaluation", notes=notes, hint=hint)]


def _apply(
    values: dict[str, Any],
    origins: Origins,
    overrides: Sequence[Override],
    config_dirs: Sequence[str],
) -> list[Diagnostic]:
    """Options chosen anew replace their section; other overrides set single keys."""
    found: list[Diagnostic] = []
    usable = [one for one in overrides if _section(one) in OPEN]
    chosen = {one.key: one for one in usable if one.is_group}
    for section in chosen:
        texts = [one.text for one in usable if _section(one) == section]
        if section == "data":
            texts += _training_rows(usable)
        draft = compose(texts, config_dirs)
        found += [d for d in draft.diagnostics if d.is_error or _section_of(d) == section]
        _drop(origins, section)
        values[section] = draft.values.get(section, values[section])
        for key, chain in draft.origins.chains.items():
            if key.partition(".")[0] == section:
                origins.chains[key] = list(chain)
        if section == "data":
            given = {one.key for one in usable}
            more = {**_ROWS, "data.max_train_rows": 1}
            fields = {key: value for key, value in more.items() if key not in given}
            _force(values, origins, fields, "nothing is trained when a model is measured")
    for one in usable:
        if not one.is_group and _section(one) not in chosen:
            _set(values, origins, one)
    return found


def _section_of(finding: Diagnostic) -> str:
    return (finding.key or "").partition(".")[0]


def _training_rows(overrides: Sequence[Override]) -> list[str]:
    """Data must have training rows; where only held-out ones are given, the same file stands in."""
    given = {one.key: one.value for one in overrides}
    held = given.get("data.evaluation")
    if "data.train" in given or held is None:
        return []
    while isinstance(held, Mapping | list) and held:
        held = next(iter(held.values())) if isinstance(held, Mapping) else held[0]
    return [f'data.train="{held}"'] if isinstance(held, str) else []


def _set(values: dict[str, Any], origins: Origins, override: Override) -> None:
    *parents, name = override.key.split(".")
    here = values
    for part in parents:
        inner = here.get(part)
        if not isinstance(inner, dict):
            inner = here[part] = {}
        here = inner
    _drop(origins, override.key)
    if override.kind == "delete":
        here.pop(name, None)
        return
    here[name] = override.value
    for key, value in leaves(override.value, override.key):
        origins.add(key, replace(override.origin(), value=value))


def _force(values: dict[str, Any], origins: Origins, settings: Mapping[str, Any], why: str) -> None:
    """Set what is there; a section without the key has no use for it."""
    for key, value in settings.items():
        section, _, name = key.partition(".")
        if name in values[section]:
            values[section][name] = value
            origins.add(key, Origin("derived", "evaluate", value, reason=why))


def _drop(origins: Origins, key: str) -> None:
    for other in [k for k in origins.chains if k == key or k.startswith(f"{key}.")]:
        del origins.chains[other]
