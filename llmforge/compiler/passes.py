"""The compiler: overrides in, plan out. Read this first.

    compose  ->  parse  ->  PASSES (probe and derive)  ->  RULES (refuse)  ->  lower  ->  Plan

Passes and rules are pure functions of a `Context`; their order is the list below. A user's faults
are collected over all of it and told at once: where a key is unusable, the value it would have
had without it stands in, so that everything else is still checked.

In: Hydra overrides and config folders. Out: a `Plan`, or `ConfigRefused` with every finding.
Nothing here imports torch, trains, or writes outside the cache folder.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from llmforge import plugins
from llmforge.compiler.context import Context, Derived, Facts, Step, Surroundings
from llmforge.compiler.derive.arguments import probe_arguments
from llmforge.compiler.derive.batch import (
    derive_batch,
    derive_intervals,
    derive_steps,
)
from llmforge.compiler.derive.evaluation import derive_answers, derive_evaluation_batch
from llmforge.compiler.derive.extension import probe_components
from llmforge.compiler.derive.inputs import (
    derive_collator,
    derive_max_length,
    derive_order,
    derive_tokenizer,
    derive_vocabulary,
    probe_data,
    probe_model,
    probe_samples,
)
from llmforge.compiler.derive.kernels import derive_kernels
from llmforge.compiler.derive.launching import derive_processes
from llmforge.compiler.derive.machine import (
    derive_attention,
    derive_precision,
    probe_machine,
)
from llmforge.compiler.derive.memory import derive_memory
from llmforge.compiler.derive.recipe import derive_recipe
from llmforge.compiler.derive.sharding import derive_sharding
from llmforge.compiler.estimate import foretell
from llmforge.compiler.fill import fill_sources
from llmforge.compiler.fill_launch import fill_launch
from llmforge.compiler.lower import lower
from llmforge.compiler.parse import parse
from llmforge.compiler.preset_files import fill_presets
from llmforge.compiler.rules import RULES
from llmforge.compose import Draft, compose
from llmforge.diagnostics import ConfigRefused, Diagnostic, Severity, refuse_on_error
from llmforge.origins import Origin, Origins, leaves
from llmforge.plan import Plan, stage_fingerprints
from llmforge.schema import APART, SCALARS, RunSpec
from llmforge.version import __version__

Pass = Callable[[Context], Step]

PASSES: tuple[Pass, ...] = (
    probe_machine,
    derive_processes,
    derive_recipe,
    probe_arguments,
    derive_tokenizer,
    derive_vocabulary,
    probe_model,
    probe_components,
    probe_data,
    derive_collator,
    derive_max_length,
    derive_order,
    derive_precision,
    derive_attention,
    derive_kernels,
    derive_sharding,
    derive_memory,
    derive_batch,
    derive_evaluation_batch,
    derive_answers,
    probe_samples,
    derive_steps,
    derive_intervals,
)
"""Order matters: each pass reads what those above it solved."""


@dataclass(frozen=True)
class Checked:
    """Everything known about a configuration, also when it is refused."""

    draft: Draft
    diagnostics: tuple[Diagnostic, ...]
    context: Context | None
    origins: Origins

    @property
    def refused(self) -> bool:
        return any(d.is_error for d in self.diagnostics)


def compile_plan(
    overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = (), root: Path | None = None
) -> Plan:
    """Compose, check, derive, lower, freeze.

    Raises:
        ConfigRefused: with every finding, errors and warnings.
    """
    checked = check(overrides, config_dirs, root)
    refuse_on_error(checked.diagnostics)
    assert checked.context is not None  # noqa: S101 - no error means every pass ran
    return freeze(checked.context, checked.origins, checked.diagnostics, checked.draft.overrides)


def check(
    overrides: Sequence[str] = (), config_dirs: Sequence[str | Path] = (), root: Path | None = None
) -> Checked:
    """All findings about a configuration; never raises for a user's fault."""
    return check_draft(compose(overrides, config_dirs, root), config_dirs, root)


def check_draft(
    draft: Draft,
    config_dirs: Sequence[str | Path] = (),
    root: Path | None = None,
    within: tuple[tuple[str, ...], ...] = (),
    base: Plan | None = None,
) -> Checked:
    """All findings about what was composed.

    Args:
        within: overrides of the runs that this one trains a model for, the outermost first.
        base: the plan of the run that trains the model, where a saved plan holds it; None compiles
            it, if there is one.
    """
    draft = fill_sources(draft, config_dirs, root)
    draft = fill_presets(draft, config_dirs, root)
    draft = fill_launch(draft, config_dirs, root)
    found = list(draft.diagnostics)
    if not draft.values:
        # nothing could be composed: that every section is missing would only bury the reason
        return Checked(draft, tuple(found), None, draft.origins)
    told = {d.key for d in found if d.is_error and d.key}
    found += _load_plugins(draft.values.get("plugins"))
    spec, problems = parse(draft.values, draft.origins)
    # what composing refused already (a missing value, say) is not told a second time, nor that
    # something is missing from a section whose file could not be used
    found += [d for d in problems if d.key not in told and not _is_missing(d, told)]
    origins = draft.origins.copy()
    for section in APART:
        origins.drop(section)
    if spec is None:
        spec = _stand_in(draft, [d.key for d in problems if d.key], config_dirs, root)
    faulty = {d.key for d in found if d.is_error and d.key}
    context = None
    if spec is not None:
        around = Surroundings(tuple(config_dirs), root, (*within, tuple(draft.overrides)), base)
        context = Context(spec, Facts(), around)
        context, more = run_passes(context, origins)
        found += [d for d in more if not _about(d, faulty)]
        found += [d for d in run_rules(context) if not _about(d, faulty)]
    found = [_with_origins(d, origins) for d in _once(found)]
    return Checked(draft, tuple(sorted(found, key=_weight)), context, origins)


def _load_plugins(named: Any) -> list[Diagnostic]:
    """Import what the settings name, so that what it registers is known; other types are parsed."""
    return plugins.load(named) if isinstance(named, list) else []


def run_passes(context: Context, origins: Origins) -> tuple[Context, list[Diagnostic]]:
    """Every pass in order; origins gain one entry per derived value."""
    found: list[Diagnostic] = []
    for function in PASSES:
        step = function(context)
        found += step.diagnostics
        context = context.apply(step, function.__name__, origins)
    return context, found


def run_rules(context: Context) -> list[Diagnostic]:
    """What the rules say of a solved context."""
    return [finding for rule in RULES for finding in rule.check(context)]


def freeze(
    context: Context, origins: Origins, findings: Sequence[Diagnostic], overrides: Sequence[str]
) -> Plan:
    """The plan of a checked context."""
    origins = origins.copy()
    settings = context.spec.settings()
    lowered = _tree(lower(context), "lowered", "lower", origins)
    estimate = _tree(foretell(context), "estimate", "foretell", origins)
    facts = _facts(context, origins)
    keep = {key for key, _ in leaves(settings)}
    for key in [k for k in origins.chains if k.partition(".")[0] in settings and k not in keep]:
        # a section that changed its kind left keys behind; a leaf's parents stay
        if not any(k.startswith(f"{key}.") for k in keep):
            del origins.chains[key]
    return Plan(
        settings=settings,
        facts=facts,
        lowered=lowered,
        estimate=estimate,
        origins=origins,
        stages=stage_fingerprints(context.spec, context.facts.identity, context.facts.asked),
        findings=[d.to_dict() for d in findings],
        overrides=list(overrides),
        llmforge=__version__,
        base=context.facts.base.to_dict() if context.facts.base is not None else None,
    )


def _tree(entries: Sequence[Derived], part: str, source: str, origins: Origins) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for item in entries:
        here = tree
        *parents, name = item.key.split(".")
        for parent in parents:
            here = here.setdefault(parent, {})
        here[name] = item.value
        origin = Origin("derived", source, item.value, reason=item.reason, reads=item.reads)
        for key, value in leaves(item.value, f"{part}.{item.key}"):
            origins.add(key, replace(origin, value=value))
    return tree


def _facts(context: Context, origins: Origins) -> dict[str, Any]:
    """The plan's facts, each leaf with the probe that found it."""
    known = context.facts
    model: dict[str, Any] | None = None
    if known.model is not None:
        model = {
            name: getattr(known.model, name)
            for name in (
                "family",
                "architecture",
                "parameters",
                "active_parameters",
                "embedding_parameters",
                "layers",
                "hidden",
                "heads",
                "kv_heads",
                "vocabulary",
                "context",
                "tied_embeddings",
                "experts",
                "experts_per_token",
            )
        }
        model["attentions"] = list(known.model.attentions)
        model["linear_modules"] = sorted(
            {module.name.rpartition(".")[2] for module in known.model.linear_modules}
        )
    facts = {
        "model": model,
        "data": {
            **(known.data.to_dict() if known.data else {}),
            "samples": asdict(known.samples) if known.samples else None,
        },
        "identity": copy.deepcopy(dict(known.identity)),
        "versions": dict(known.versions),
    }
    for key, value in leaves(facts, "facts"):
        part = key.split(".")[2 if key.startswith("facts.identity.") else 1]
        probe, reads = _PROBES[part]
        origins.add(key, Origin("probed", probe, value, reads=reads))
    return facts


_PROBES: dict[str, tuple[str, tuple[str, ...]]] = {
    "model": ("probe_model", ("model",)),
    "tokenizer": ("probe_model", ("tokenizer", "model")),
    "data": ("probe_data", ("data",)),
    "components": ("probe_components", ("plugins",)),
    "versions": ("probe_machine", ()),
}
"""Part of the facts -> the pass that looked it up, and the section it was looked up for."""


def _stand_in(
    draft: Draft,
    bad_keys: Sequence[str],
    config_dirs: Sequence[str | Path],
    root: Path | None,
) -> RunSpec | None:
    """The spec as it would be without the faulty keys: their earlier or shipped values instead."""
    values = copy.deepcopy(draft.values)
    shipped: Mapping[str, Any] | None = None
    for key in bad_keys:
        section, *rest = key.split(".")
        earlier = [origin.value for origin in draft.origins.chain(key)][:-1]
        if rest and len(draft.origins.chains.get(key, ())) > 1:
            _put(values, key, earlier[-1])
            continue
        if rest:
            _drop(values, key)
        if not rest and section not in values and section not in SCALARS:
            continue
        spec, problems = parse({section: values.get(section)})
        if rest and not any((d.key or "").startswith(section) and d.key == key for d in problems):
            continue
        shipped = shipped or compose((), config_dirs, root).values
        if section in shipped:
            values[section] = copy.deepcopy(shipped[section])
        else:
            values.pop(section, None)
    spec, _ = parse(values)
    return spec


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *parents, name = key.split(".")
    here: Any = values
    for part in parents:
        here = here.get(part) if isinstance(here, dict) else None
    if isinstance(here, dict):
        here[name] = value


def _drop(values: dict[str, Any], key: str) -> None:
    *parents, name = key.split(".")
    here: Any = values
    for part in parents:
        here = here.get(part) if isinstance(here, dict) else None
    if isinstance(here, dict):
        here.pop(name, None)


def _about(finding: Diagnostic, faulty: set[str]) -> bool:
    """Is the finding about a key whose value only stands in for a refused one?"""
    key = finding.key or ""
    return any(key == bad or bad.startswith(f"{key}.") for bad in faulty)


def _is_missing(finding: Diagnostic, told: set[str]) -> bool:
    section = (finding.key or "").partition(".")[0]
    return finding.code == "LF105" and section in told


def _with_origins(finding: Diagnostic, origins: Origins) -> Diagnostic:
    if finding.origins or finding.key is None or finding.code == "LF114":
        return finding
    return replace(finding, origins=origins.chain(finding.key))


def _once(found: Sequence[Diagnostic]) -> list[Diagnostic]:
    return list({(d.code, d.key, d.message): d for d in found}.values())


def _weight(finding: Diagnostic) -> int:
    return list(Severity).index(finding.severity)


__all__ = ["PASSES", "Checked", "ConfigRefused", "check", "compile_plan", "freeze"]
