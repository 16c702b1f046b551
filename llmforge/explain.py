"""`explain` and `list`: what a key is, who set it, who reads it, what may be chosen.

In: a key or code and overrides. Out: text. Readers of a key are traced, not declared: passes,
rules and lowering are run once on a spec that notes every access, so the answer cannot go stale.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from llmforge.codes import explain_code, known_codes
from llmforge.compiler.context import Context
from llmforge.compiler.estimate import foretell
from llmforge.compiler.lower import lower
from llmforge.compiler.passes import PASSES, Checked, check, freeze
from llmforge.compiler.rules import RULES
from llmforge.compiler.trace import traced
from llmforge.compose import groups, options
from llmforge.diagnostics import ConfigRefused, Diagnostic, did_you_mean, near
from llmforge.diff import effect_of
from llmforge.origins import Origin, Origins, leaves
from llmforge.plan import STAGE_EFFECTS, Plan
from llmforge.render import shown, table
from llmforge.schema.docs import field_doc, field_type
from llmforge.schema.extension import NAMED
from llmforge.schema.run import Scalars
from llmforge.schema.sweep import APART
from llmforge.schema.typed import section_spec

_WIDTH = 96


def explain(subject: str, overrides: Sequence[str], config_dirs: Sequence[str]) -> str:
    """Text about a code or a key.

    Raises:
        ConfigRefused: there is no such key or code, or the overrides are refused.
    """
    if subject.upper().startswith("LF") and subject[2:].isdigit():
        text = explain_code(subject.upper())
        if text is None:
            known = list(known_codes())
            raise ConfigRefused(
                [
                    Diagnostic(
                        "LF101",
                        f"there is no code {subject}",
                        notes=did_you_mean(subject.upper(), known),
                    )
                ]
            )
        head, _, body = text.partition("\n\n")
        return head + "\n\n" + "\n\n".join(textwrap.fill(p, _WIDTH) for p in body.split("\n\n"))
    checked = check(overrides, config_dirs)
    if checked.refused or checked.context is None:
        raise ConfigRefused(checked.diagnostics)
    return explain_key(subject, checked)


def explain_key(key: str, checked: Checked) -> str:
    """Value, chain of origins, documentation, effect, readers of one key."""
    assert checked.context is not None  # noqa: S101 - the caller refused before
    plan = freeze(checked.context, checked.origins, (), checked.draft.overrides)
    if key == APART[0] or key.startswith(tuple(f"{section}." for section in APART)):
        return _apart(key, checked)
    known = dict(plan.leaves())
    below = {k: v for k, v in known.items() if k.startswith(f"{key}.")}
    if key not in known and below:
        width = max(map(len, below))
        return "\n".join(f"{k:<{width}}  {shown(v)}" for k, v in below.items())
    if key not in known:
        raise ConfigRefused([_unknown(key, known)])
    lines = [f"{key} = {shown(known[key], 200)}", "", *_chain_lines(plan.origins.chain(key))]
    section = key.partition(".")[0]
    if section in plan.settings:
        lines += ["", *_meaning(key, plan), "", *_readers(key, checked, plan)]
    return "\n".join(lines)


def _apart(key: str, checked: Checked) -> str:
    """A key of a section that is about runs and part of none, so no plan has it."""
    section, *path = key.split(".")
    values = checked.draft.values[section]
    known = {f"{section}.{name}": value for name, value in leaves(values)}
    below = {k: v for k, v in known.items() if k.startswith(f"{key}.")}
    if key not in known and below:
        width = max(map(len, below))
        return "\n".join(f"{k:<{width}}  {shown(v)}" for k, v in below.items())
    if key not in known:
        raise ConfigRefused([_unknown(key, known)])
    spec = section_spec(section, values)
    doc = "" if spec is None else field_doc(spec, path)
    kind = "" if spec is None else field_type(spec, path)
    return "\n".join(
        [
            f"{key} = {shown(known[key], 200)}",
            *("", *_chain_lines(checked.draft.origins.chain(key))),
            *("", *textwrap.wrap(doc, _WIDTH), f"type: {kind}"),
            "effect: about the sweep; no run has it, and changing it runs nothing again",
        ]
    )


def _unknown(key: str, known: Mapping[str, Any]) -> Diagnostic:
    guess = near(key, known)
    tail = [k for k in known if k.rpartition(".")[2] == key.rpartition(".")[2]]
    return Diagnostic(
        "LF101",
        f"unknown key `{key}`",
        notes=did_you_mean(key, [*guess, *tail]) if guess or tail else (),
        hint=f"llmforge explain {(tail or guess)[0]}" if guess or tail else None,
    )


def _chain_lines(chain: Sequence[Origin]) -> list[str]:
    width = max((len(origin.place) for origin in chain), default=0)
    lines = ["set by"]
    for position, origin in enumerate(reversed(chain)):
        word = "now " if position == 0 else "over"
        reason = f"   {origin.reason}" if origin.reason else ""
        reads = f" (from {', '.join(origin.reads)})" if origin.reads else ""
        lines.append(f"  {word} {origin.place:<{width}}  {shown(origin.value)}{reason}{reads}")
    return lines


def _meaning(key: str, plan: Plan) -> list[str]:
    section, *path = key.split(".")
    if section in NAMED and path:
        name, *path = path
        spec = section_spec(f"{section}.{name}", plan.settings[section][name])
    else:
        spec = Scalars if not path else section_spec(section, plan.settings[section])
    effect = effect_of(key, plan.settings)
    stages = [
        stage
        for stage, effects in STAGE_EFFECTS.items()
        if effect in effects and (stage in plan.asked_stages or effects[-1] is effect)
    ]
    again = (
        f"changing it runs {', '.join(stages)} again"
        if stages
        else "changing it runs nothing again"
    )
    lines = []
    if spec is not None:
        doc = field_doc(spec, path or [section])
        kind = field_type(spec, path or [section])
        lines += [*textwrap.wrap(doc, _WIDTH), f"type: {kind}"] if doc else [f"type: {kind}"]
    return [*lines, f"effect: {effect.value}; {again}"]


def _readers(key: str, checked: Checked, plan: Plan) -> list[str]:
    readers = readers_of(key, checked)
    lowered = sorted(
        {
            k.removeprefix("lowered.")
            for k in plan.origins.chains
            if k.startswith("lowered.")
            and any(key == r or key.startswith(f"{r}.") for r in plan.origins.chain(k)[-1].reads)
        }
    )
    lines = [f"read by: {', '.join(readers) or 'the worker'}"]
    if lowered:
        lines.append(f"handed on as: {', '.join(lowered)}")
    return lines


def readers_of(key: str, checked: Checked) -> list[str]:
    """Names of the passes and codes of the rules that looked at a key, traced."""
    context = checked.context
    assert context is not None  # noqa: S101 - the caller refused before
    found: list[str] = []

    def looked(name: str, run: Any, spec_source: Context) -> None:
        spec, seen = traced(spec_source.spec)
        for _ in run(Context(spec, spec_source.facts)) or ():
            pass
        if key in seen:
            found.append(name)

    from llmforge.compiler.parse import parse

    start, _ = parse(checked.draft.values)
    assert start is not None  # noqa: S101 - the configuration was accepted
    here = Context(start, type(context.facts)())
    for function in PASSES:
        looked(function.__name__, lambda c, f=function: [f(c)], here)
        here = here.apply(function(here), function.__name__, Origins())
    for rule in RULES:
        looked(rule.code, rule.check, context)
    looked("lower", lower, context)
    looked("foretell", foretell, context)
    return found


def list_groups(config_dirs: Sequence[str]) -> str:
    """Every group with its options."""
    rows = [
        (group, ", ".join(option.name for option in options(group, config_dirs)))
        for group in groups(config_dirs)
    ]
    return table(rows, ("group", "options"))


def list_group(group: str, config_dirs: Sequence[str]) -> str:
    """The options of one group with their first comment."""
    known = groups(config_dirs)
    if group not in known:
        raise ConfigRefused(
            [
                Diagnostic(
                    "LF102",
                    f"unknown group `{group}`",
                    notes=did_you_mean(group, known) or (f"groups: {', '.join(known)}",),
                    hint=f"llmforge list {near(group, known, 1)[0]}"
                    if near(group, known)
                    else None,
                )
            ]
        )
    rows = []
    for option in options(group, config_dirs):
        shadow = " (shadows the shipped one)" if option.shadows else ""
        rows.append((option.name, option.doc.replace("\n", " ") + shadow))
    return table(rows, (group, "what it is"))


__all__ = ["explain", "explain_key", "list_group", "list_groups", "readers_of"]
