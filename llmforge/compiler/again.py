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

from llmforge.compiler.overlay import (
    Chosen,
    apply,
    closed,
    drop,
    force,
    section_of,
    section_of_finding,
    settings_of,
    word,
)
from llmforge.compiler.passes import Checked, check_draft
from llmforge.compose import Draft, compose
from llmforge.compose.library import open_library
from llmforge.compose.overrides import Override, parse
from llmforge.diagnostics import Diagnostic
from llmforge.origins import Origin, Origins, leaves
from llmforge.plan import Plan

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
    "fuse.after_training": False,
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
    plan: Plan,
    tokenizer: Path,
    overrides: Sequence[str] = (),
    config_dirs: Sequence[str] = (),
    weights: Path | None = None,
) -> Checked:
    """Check what is asked on top of a run's plan.

    Args:
        plan: of the run.
        tokenizer: folder with the run's own tokenizer.
        overrides: as on the command line.
        config_dirs: the user's own option folders.
        weights: folder of full weights that stand for the run's base and adapter.
    """
    library, _ = open_library(config_dirs)  # what is wrong with a folder, composing tells
    asked = parse(overrides, library)
    found = [*asked.diagnostics, *_closed(asked.overrides)]
    values, origins = settings_of(plan)
    if weights is not None:
        _whole(values, origins, weights)
    if values["quantize"]["kind"] != "none":
        _composed(values, origins, ("quantize",), ["quantize=none"], "nothing is made of it here")
    _force(values, origins, _NO_TRAINING)
    _force(values, origins, _ROWS)
    if not (values["data"]["streaming"] or values["data"]["kind"] == "mix"):
        _force(values, origins, {"data.max_train_rows": 1})
    usable = [one for one in asked.overrides if section_of(one) in OPEN]
    found += apply(values, origins, usable, config_dirs, _chosen_data(usable))
    if any(one.is_group and one.key == "data" for one in usable):
        given = {one.key for one in usable}
        more = {**_ROWS, "data.max_train_rows": 1}
        _force(values, origins, {key: value for key, value in more.items() if key not in given})
    own = {"tokenizer.source": str(tokenizer)}
    _force(values, origins, own, "the run's own tokenizer")
    draft = Draft(values, origins, {}, tuple(found), tuple(overrides), tuple(config_dirs))
    checked = check_draft(draft, config_dirs, base=plan.base_plan)
    kept = [d for d in checked.diagnostics if d.is_error or _concerns(d)]
    kept += _nothing_to_measure(checked)
    return replace(checked, diagnostics=tuple(kept))


def _whole(values: dict[str, Any], origins: Origins, weights: Path) -> None:
    """A plan of full weights in a folder, in the place of base and adapter."""
    texts = ["model=folder", word("model.path", str(weights)), "lora=none", "quantization=none"]
    attention = values["model"]["attention"]
    sections = ("model", "lora", "quantization")
    _composed(values, origins, sections, texts, "the model was fused")
    values["model"]["attention"] = attention


def _composed(
    values: dict[str, Any],
    origins: Origins,
    sections: Sequence[str],
    texts: Sequence[str],
    reason: str,
) -> None:
    """Put sections in place as they are composed of other overrides."""
    draft = compose(texts)
    for section in sections:
        drop(origins, section)
        values[section] = draft.values[section]
        for key, value in leaves(values[section], section):
            origins.add(key, Origin("derived", "evaluate", value, reason=reason))


def without_training(draft: Draft) -> Draft:
    """The draft with what only training needs put out of the way."""
    values, origins = copy.deepcopy(draft.values), draft.origins.copy()
    _force(values, origins, _NO_TRAINING, "nothing is trained")
    _force(values, origins, _ROWS, "nothing is trained")
    return replace(draft, values=values, origins=origins)


def _closed(overrides: Sequence[Override]) -> list[Diagnostic]:
    """LF224 for each override of what the model is."""
    message = "would change more than what is measured"
    return [closed(one, OPEN, "LF224", message) for one in overrides if section_of(one) not in OPEN]


def _concerns(finding: Diagnostic) -> bool:
    return section_of_finding(finding) in OPEN


def _nothing_to_measure(checked: Checked) -> list[Diagnostic]:
    data = checked.context.facts.data if checked.context else None
    if checked.refused or data is None or data.evaluation_rows:
        return []
    message = "there are no held-out rows to measure"
    notes = ("`data.evaluation` is not given and `data.eval_fraction` holds out no row",)
    hint = "data.evaluation=<file>"
    return [Diagnostic("LF228", message, key="data.evaluation", notes=notes, hint=hint)]


def _chosen_data(usable: Sequence[Override]) -> Chosen:
    """Where data are chosen anew, training rows that stand in for missing ones."""
    return lambda section: _training_rows(usable) if section == "data" else []


def _training_rows(overrides: Sequence[Override]) -> list[str]:
    """Data must have training rows; where only held-out ones are given, the same file stands in."""
    given = {one.key: one.value for one in overrides}
    held = given.get("data.evaluation")
    if "data.train" in given or held is None:
        return []
    while isinstance(held, Mapping | list) and held:
        held = next(iter(held.values())) if isinstance(held, Mapping) else held[0]
    return [f'data.train="{held}"'] if isinstance(held, str) else []


def _force(
    values: dict[str, Any],
    origins: Origins,
    settings: Mapping[str, Any],
    why: str = "nothing is trained when a model is measured",
) -> None:
    force(values, origins, settings, "evaluate", why)
