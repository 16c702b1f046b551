"""Settings of generation where a finished model is asked: a run's own, with what is asked for now.

In: a run's `generation` section (or none), overrides of the command line or keywords from Python.
Out: the whole section, checked; and the composed draft, for sections that the verb reads as well.
Only what is said now replaces what the run has: `generation.temperature=0.7` leaves the rest.

Data, hardware and the rest of a plan are not looked at: a model answers anywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from llmforge.compiler.parse import override, parse_section
from llmforge.compiler.rules.generation import contradictions
from llmforge.compose import Draft, compose
from llmforge.diagnostics import ConfigRefused, Diagnostic, refuse_on_error
from llmforge.origins import leaves

SECTION = "generation"
TAKEN = (SECTION, "tracking", "paths")
"""Sections that a finished model can be asked with; the others were settled when it was trained."""


@dataclass(frozen=True)
class Asked:
    """What a command line says about asking a model."""

    draft: Draft
    values: dict[str, Any]
    """Keys of the section `generation` that it sets."""

    def settings(self, own: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """The whole section: as shipped, then as the run has it, then as asked for.

        Raises:
            ConfigRefused: the three together contradict each other.
        """
        shipped = self.draft.values[SECTION]
        known = {key: value for key, value in (own or {}).items() if key in shipped}
        return _checked({**shipped, **known, **self.values}, self.draft)

    def warnings(self, settings: Mapping[str, Any]) -> list[Diagnostic]:
        """What of the whole section does nothing."""
        spec, _ = parse_section(SECTION, settings, self.draft.origins)
        return [_placed(one, self.draft) for one in contradictions(spec)] if spec else []  # type: ignore[arg-type]


def ask(overrides: Sequence[str], config_dirs: Sequence[str] = ()) -> Asked:
    """What a command line asks for.

    Raises:
        ConfigRefused: it cannot be composed, or changes what a finished model has settled (LF862).
    """
    draft = compose(overrides, config_dirs)
    refuse_on_error(draft.diagnostics)
    said = list(_said(draft))
    foreign = [key for key in said if key.partition(".")[0] not in TAKEN]
    if foreign:
        raise ConfigRefused([_foreign(foreign[0], draft)])
    names = dict.fromkeys(key.split(".")[1] for key in said if key.startswith(f"{SECTION}."))
    return Asked(draft, {name: draft.values[SECTION][name] for name in names})


def generation_settings(preset: str = "default", **given: Any) -> dict[str, Any]:
    """The section from Python: an option of the group, and single keys over it.

    Raises:
        ConfigRefused: no such option, an unknown key, a value that is not allowed.
    """
    draft = compose([f"{SECTION}={preset}"])
    refuse_on_error(draft.diagnostics)
    return _checked({**draft.values[SECTION], **given}, draft)


def with_setting(settings: Mapping[str, Any], text: str) -> dict[str, Any]:
    """Settings changed by one `key=value` (or `preset=creative`), as `/set` of a talk takes it.

    Raises:
        ConfigRefused: as `generation_settings`.
    """
    name, _, value = text.partition("=")
    name = name.strip().removeprefix(f"{SECTION}.")
    word = f"{SECTION}={value}" if name in ("preset", SECTION) else f"{SECTION}.{name}={value}"
    asked = ask([word])
    return asked.settings(settings)


def _said(draft: Draft) -> Iterator[str]:
    """Keys that the command line sets, by themselves or through the choice of an option."""
    for key, _ in leaves(draft.values):
        chain = draft.origins.chain(key)
        if chain and (
            chain[-1].kind == "override" or chain[-1].reason.endswith("on the command line")
        ):
            yield key


def _checked(values: Mapping[str, Any], draft: Draft) -> dict[str, Any]:
    spec, found = parse_section(SECTION, values, draft.origins)
    if spec is None:
        raise ConfigRefused(found)
    refuse_on_error(_placed(one, draft) for one in contradictions(spec))  # type: ignore[arg-type]
    return spec.settings()


def _placed(found: Diagnostic, draft: Draft) -> Diagnostic:
    return replace(found, origins=draft.origins.chain(found.key)) if found.key else found


def _foreign(key: str, draft: Draft) -> Diagnostic:
    name = key.rpartition(".")[2]
    near = f"{SECTION}.{name}"
    shipped = draft.values[SECTION]
    value = draft.values
    for part in key.split("."):
        value = value[part]
    return Diagnostic(
        "LF862",
        f"`{key}` was settled when the model was trained",
        key=key,
        origins=draft.origins.chain(key),
        notes=(f"a finished model is asked with {', '.join(f'`{one}`' for one in TAKEN)}",),
        hint=override(near, value) if name in shipped else None,
    )
