"""A model that another run trains: that run's plan, compiled with the one that needs it.

In: a context whose model is `trained`. Out: that run's plan, and what its model will be: config,
`ModelFacts`, identity. Nothing needs to have run: the shape follows from what the run starts from,
and its fingerprint stands for the weights it will leave. What is wrong with that run is told under
`model.overrides`, with the place in its own configuration; LF623-LF625 are about the two together.

Whether the run is finished is asked before a worker starts (`run/bases.py`), not here.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmforge.compiler.context import Context
from llmforge.compiler.facts.model import ModelLook, look_at_model
from llmforge.compose import Draft, compose
from llmforge.diagnostics import Diagnostic, Severity
from llmforge.origins import Origin, Origins, leaves
from llmforge.plan import Plan
from llmforge.schema.model import ScratchModel, TrainedModel

KEY = "model.overrides"

DEEPEST = 8
"""Runs that may stand on each other: more is most likely a name that is made up anew each time."""

_OWN_MODEL = "tracking.registered_model"
"""The one setting of the inherited sections that names the model, and so is the run's own."""

_SETS = re.compile(r"[+~]*(?P<section>\w+)")


def look_at_trained(context: Context) -> tuple[ModelLook, Plan | None]:
    """What the other run's model will be, and the run's plan; None where it is refused."""
    model = context.spec.model
    assert isinstance(model, TrainedModel)  # noqa: S101 - asked by the caller
    plan, found = context.around.base, list[Diagnostic]()
    if plan is None:
        plan, found = _compiled(context, model)
    if plan is None:
        return ModelLook(diagnostics=tuple(found)), None
    problem = _other_weights(plan, model)
    if problem is not None:
        return ModelLook(diagnostics=(*found, problem)), plan
    shape = _shape(plan, Path(context.spec.paths.cache))
    stage = "fuse" if model.weights == "fused" else "train"
    config = dict(shape.config)
    config.pop("quantization_config", None)  # what is packed for training is merged unpacked
    look = ModelLook(
        config,
        shape.facts,
        {"run": plan.stages[stage], "weights": model.weights},
        {"run": plan.stages["prepare"]},
        tuple(found),
    )
    return look, plan


def model_folder(context: Context) -> Path:
    """Where the other run leaves the weights."""
    model, plan = context.spec.model, context.facts.base
    assert isinstance(model, TrainedModel)  # noqa: S101 - asked by the caller
    assert plan is not None  # noqa: S101 - a plan without it is refused
    return plan.weights_folder(model.weights)


def _compiled(context: Context, model: TrainedModel) -> tuple[Plan | None, list[Diagnostic]]:
    # imported late: compiling is what this stands in the middle of
    from llmforge.compiler.passes import check_draft, freeze

    around, asked = context.around, tuple(model.overrides)
    if (told := _endless(asked, around.within)) is not None:
        return None, [told]
    draft = compose(asked, around.config_dirs, around.root)
    if draft.values:
        draft = _at_home(draft, context, model)
    checked = check_draft(draft, around.config_dirs, around.root, within=around.within)
    found = [_placed(d, asked) for d in checked.diagnostics if d.severity is not Severity.NOTE]
    if checked.refused or checked.context is None:
        return None, found
    return freeze(checked.context, checked.origins, checked.diagnostics, asked), found


def _endless(asked: tuple[str, ...], within: Sequence[tuple[str, ...]]) -> Diagnostic | None:
    if asked in within:
        message = "the run that trains the model needs its own model first"
    elif len(within) > DEEPEST:
        message = f"more than {DEEPEST} runs that stand on each other"
    else:
        return None
    chain = " needs ".join(f"[{', '.join(one)}]" for one in (*within, asked))
    return Diagnostic("LF624", message, key=KEY, notes=(chain,))


def _at_home(draft: Draft, context: Context, model: TrainedModel) -> Draft:
    """The draft with hardware, tracking and paths of the run that needs the model."""
    spec = context.spec
    given = {m["section"] for text in model.overrides if (m := _SETS.match(text))}
    values, origins = dict(draft.values), Origins(dict(draft.origins.chains))
    for section in ("paths", "tracking", "hardware"):
        if section in given:
            continue
        taken: dict[str, Any] = getattr(spec, section).settings()
        if section == "paths" and model.runs is not None:
            taken["runs"] = model.runs
        if section == "tracking" and "registered_model" in taken:
            taken["registered_model"] = values[section].get("registered_model")
        values[section] = taken
        origins.drop(section)
        for key, value in leaves(taken, section):
            why = "as of the run that needs the model"
            if key == _OWN_MODEL:
                origins.chains[key] = list(draft.origins.chain(key))
            if not origins.chains.get(key):
                origins.add(key, Origin("derived", "probe_model", value, reason=why))
    return replace(draft, values=values, origins=origins)


def _placed(found: Diagnostic, asked: tuple[str, ...]) -> Diagnostic:
    """A finding about the other run, as one about the key that names the run."""
    places = tuple(f"{origin.place}: {found.key}" for origin in found.origins[-1:] if origin.place)
    hint = found.hint
    if hint and all("=" in word for word in shlex.split(hint)):
        better = shlex.split(hint)
        bad = {found.key, *(word.partition("=")[0] for word in better)}
        kept = [text for text in asked if text.partition("=")[0] not in bad]
        # unlike names, overrides need their quotes in a list of Hydra's grammar
        hint = shlex.quote(f"{KEY}={json.dumps([*kept, *better])}")
    return Diagnostic(
        found.code,
        f"in the run that trains the model: {found.message}",
        found.severity,
        KEY,
        notes=(*places, *found.notes),
        hint=hint,
    )


def _other_weights(plan: Plan, model: TrainedModel) -> Diagnostic | None:
    """LF623: the run does not make the weights that are asked for."""
    adapter = plan.settings["lora"]["kind"]
    if model.weights == "model" and adapter != "none":
        message, hint = f"the run trains an adapter ({adapter}), not a model", "model.weights=fused"
    elif model.weights == "fused" and adapter == "none":
        message, hint = "the run trains no adapter, so nothing is fused", "model.weights=model"
    else:
        return None
    return Diagnostic("LF623", message, key="model.weights", hint=hint)


def _shape(plan: Plan, cache: Path) -> ModelLook:
    """Config and facts of what the run trains; training changes no shape."""
    inner = plan.base_plan
    if inner is not None:
        return _shape(inner, cache)
    section = plan.spec.model
    rows = section.vocabulary if isinstance(section, ScratchModel) else None
    return look_at_model(section, rows if isinstance(rows, int) else None, cache)
